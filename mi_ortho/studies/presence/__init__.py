"""The command `presence`: are a family's vectors in the activations of a model that really writes code?"""
