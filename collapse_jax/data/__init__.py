"""Real data in, rows out: sources, tokenizers, prepared rows and the mixtures drawn from them."""
