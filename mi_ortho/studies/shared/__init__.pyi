from .positions import readout_of, where
from .subject import DTYPES, Subject, Texts, device_of, model_hash, open_subject

__all__ = ["DTYPES", "Subject", "Texts", "device_of", "model_hash", "open_subject", "readout_of", "where"]
