"""One model writes responses for prompts: reading, generating, checking, recording."""
