"""The recommendation benchmark: complete a modality, embed it, train multimodal recommenders on it, measure ranking."""
