"""What an artifact is: one self-describing file with a manifest, the model, golden vectors and references."""
