"""The null models put to a finished family run: what of it would a linear map, a quadratic form or chance also give?"""
