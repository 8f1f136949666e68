"""Tables and plots of an evaluation, to publish."""
