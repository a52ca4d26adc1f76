"""The exported router: written by the training side, read by the runtime."""
