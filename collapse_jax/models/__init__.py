"""Networks: layers, attention and the models made of them; they know nothing of generations."""
