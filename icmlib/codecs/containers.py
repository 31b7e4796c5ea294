"""What a still image's file holds besides the picture: its container.

A HEIF or AVIF file spends 300 to 450 bytes on boxes that its size and settings decide, a JPEG file
170 on its tables: at 128x128 px that is up to 0.2 bpp, as much as the picture itself at the lowest
rates. Where the container is known, it is not sent: the decoder makes a flat picture of the same
size with the same settings, and takes it from there.

    file -> head | body      head: as the flat picture's, but for the lengths of the body
                             body: what is sent
"""

JPEG_TABLES = b"\xff\xc4"  # the Huffman tables are the picture's own: they belong to its body


def body_at(format: str, file: bytes) -> int:
    """Where the picture's own bytes begin: 0 where nothing is known (WebP, PNG, VVC)."""
    if format == "JPEG":
        return file.index(JPEG_TABLES)
    if format in ("AVIF", "HEVC"):
        return _media_data_at(file)
    return 0


def _media_data_at(file: bytes) -> int:
    """First byte within the `mdat` box, which ends the file (ISO/IEC 14496-12)."""
    at = 0
    while at + 8 <= len(file):
        size = int.from_bytes(file[at : at + 4], "big")
        if file[at + 4 : at + 8] == b"mdat" and at + size == len(file):
            return at + 8
        if size < 8:
            break
        at += size
    raise ValueError(f"file of {len(file)} bytes does not end with its media data")


def strip(format: str, file: bytes, template: bytes) -> bytes:
    """The body, from which `restore` makes the file again; ValueError where it does not."""
    body = file[body_at(format, file) :]
    if restore(format, body, template) != file:
        raise ValueError(
            f"the {format} container differs from that of a flat picture; code with container=True"
        )
    return body


def restore(format: str, body: bytes, template: bytes) -> bytes:
    """The whole file of a body; `template` is the file of a flat picture of the same size."""
    head = bytearray(template[: body_at(format, template)])
    if format in ("AVIF", "HEVC"):  # one item of one extent: its length ends the `iloc` box
        box = head.index(b"iloc") - 4
        end = box + int.from_bytes(head[box : box + 4], "big")
        head[end - 4 : end] = len(body).to_bytes(4, "big")
        head[-8:-4] = (len(body) + 8).to_bytes(4, "big")  # of the media data, with its own head
    return bytes(head) + body
