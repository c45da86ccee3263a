"""Images from disk to tensors: the listing, the decoder and the one definition of preprocessing."""
