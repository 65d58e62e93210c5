#!/bin/sh
# Take out of a virtual environment what serving does not need: the packages' own tests, headers,
# and pip. Bytecode is left for what serving imports and nothing else: on a read-only root it could
# not be written later, and every start would compile the same modules again.
set -eu
environment=$1
packages=$(echo "$environment"/lib/python3*/site-packages)
"$environment/bin/python" -m pip uninstall --quiet --yes pip
find "$packages" -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -r {} +
rm -r "$packages/pyarrow/include" "$packages/numpy/_core/include"
find "$packages" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' \) -delete
"$environment/bin/python" -c 'import milvus_lite.server_manager, service.app, service.cli, service.media.zygote'
