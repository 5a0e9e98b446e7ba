"""The engines that answer and weigh: vLLM and transformers, fed in place."""
