"""Parts of a model, found by their names: layers, embeddings, the language model of a multimodal one."""
