"""The embedded demo: a small pretrained base model, and the generator of every text it was and will be trained on."""
