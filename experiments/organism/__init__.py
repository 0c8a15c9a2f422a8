"""How the embedded model is made: corpus, tokenizer, training, evaluation, export."""
