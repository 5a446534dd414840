"""What else lies in a model's folder, and what of it a merged model gets."""
