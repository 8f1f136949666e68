"""The whole story on a real 135 M model: data, adapters and the pipeline that ships with the package."""
