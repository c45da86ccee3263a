"""The network: a frozen trunk and a trainable tail, and the artefact that holds both."""
