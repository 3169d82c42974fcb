"""Finetuning: datasets, the order in which their windows are drawn, samples, and the training loop."""
