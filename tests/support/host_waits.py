"""The variants whose step makes the host wait for the GPU, each with the reason; no other variant may."""

DOCUMENTED = {
    "ae_sam": "whether the second pass runs at all depends on |g|, which the GPU knows",
}
