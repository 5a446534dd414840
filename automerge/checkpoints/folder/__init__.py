"""Files of a model's folder other than weights, and which of them a merged model gets."""
