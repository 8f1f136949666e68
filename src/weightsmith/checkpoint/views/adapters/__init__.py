"""Adapters on a checkpoint: what peft and llama.cpp write, added for the rows asked for."""
