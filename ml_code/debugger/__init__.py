"""smdebug: the hook that saves tensors during training, and the rules that judge them."""
