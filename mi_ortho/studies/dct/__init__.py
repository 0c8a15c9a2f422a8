"""The command `dct`: spectra, factors, what they do on the model, how many things they are."""
