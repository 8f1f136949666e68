"""The family of task arithmetic: fine-tune minus base, sparsified, weighted, summed, added to the base again."""
