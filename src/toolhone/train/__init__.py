"""Training: the model with its adapter, and TRL's SFTTrainer on ids and labels of our own."""
