"""What training minimises: the cross-entropy, and what regularises it.

`objective` puts one optimizer step's loss together. `smoothing` and `rdrop`
change the loss of a token, `neftune` the forward pass; `code_loss` adds a term
of its own, about the tokens that `code_blocks` finds. Each can be switched on
and off from step to step.
"""
