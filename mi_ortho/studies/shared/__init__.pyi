from .positions import where
from .subject import DTYPES, Subject, Texts, device_of, model_hash, open_subject

__all__ = ["DTYPES", "Subject", "Texts", "device_of", "model_hash", "open_subject", "where"]
