"""Evaluation measured: where its time goes, and each part of it against others' ways."""
