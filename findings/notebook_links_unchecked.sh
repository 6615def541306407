#!/usr/bin/env bash
# One would guess that a strict build of mkdocs finds the dead links of every page, and turns those to a .md file into
# those to its page. Of a notebook that mkdocs-jupyter shows, links are left as they are: [next](next.md), which is
# right in every other page, ends at next.md, which the site does not have, and [gone](gone.md) of a page that is not
# there passes the strict build. The same two lines in a Markdown page are a link to ../next/ and an error.
# It matters to whoever shows notebooks among documents: links in them are to be turned and checked by oneself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mkdocs==1.6.1 mkdocs-jupyter==0.26.3
mkdir "$folder/docs"
cat > "$folder/mkdocs.yml" <<'YAML'
site_name: pages
plugins: [mkdocs-jupyter]
YAML
echo "# Begin" > "$folder/docs/index.md"
echo "# Next" > "$folder/docs/next.md"
cat > "$folder/docs/session.ipynb" <<'JSON'
{"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "[next](next.md) and [gone](gone.md)"}],
 "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
 "nbformat": 4, "nbformat_minor": 5}
JSON
cd "$folder"
venv/bin/python -m mkdocs -q build --strict
grep -o 'href="[a-z]*\.md"' site/session/index.html      # href="next.md" and href="gone.md"
test "$(grep -c 'href="next.md"' site/session/index.html)" = 1
test "$(grep -c 'href="gone.md"' site/session/index.html)" = 1
echo "[next](next.md) and [gone](gone.md)" > docs/page.md
if venv/bin/python -m mkdocs build --strict > errors 2>&1; then exit 1; fi
grep "page.md.*gone.md" errors                           # contains a link 'gone.md', but the target is not found
