"""Continue the training of a model on selected windows: its checkpoint, its recipe, its trainer."""
