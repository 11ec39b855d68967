"""The protocols that clients speak: what each sends, and what it gets back."""
