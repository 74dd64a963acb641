"""Write the generated pages while MkDocs builds; run by the gen-files plugin, see mkdocs.yml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import magnified
import mkdocs_gen_files
import pages
import sheet

for path, text in {**pages.everything(), **magnified.files()}.items():
    with mkdocs_gen_files.open(path, "w") as page:
        page.write(text)
for path, data in sheet.pictures().items():
    with mkdocs_gen_files.open(path, "wb") as picture:
        picture.write(data)
