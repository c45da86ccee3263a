"""What is not carried out here is refused by name."""

from collections.abc import Mapping

import jmespath  # type: ignore[import-untyped]

from local_sagemaker.api.protocol import Document, invalid


def refuse(request: Document, unsupported: Mapping[str, str]) -> None:
    """Raise ApiError for members that would change what happens and are not carried out here.

    `unsupported` maps JMESPath expressions, true when such a member is given, to what it asks for.
    """
    for expression, meaning in unsupported.items():
        if jmespath.search(expression, request):
            raise invalid(f"local_sagemaker does not do {meaning} ({expression}); take it out of the request")
