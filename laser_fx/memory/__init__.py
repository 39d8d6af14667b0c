"""What a model keeps and computes, measured."""
