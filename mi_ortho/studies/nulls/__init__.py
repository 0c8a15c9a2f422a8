"""The command `nulls`: what of a finished family would a linear map, a quadratic form or chance also give?"""
