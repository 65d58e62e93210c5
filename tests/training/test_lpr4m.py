"""LPR4M and its 750K subset: what is read, what is refused, and that nothing is lost silently."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.training.lpr_folders import (
    CLIPS,
    IMAGES,
    LIVES,
    every_picture,
    frames_of,
    full_line,
    jpeg,
    write_lpr4m,
    write_lpr750k,
    write_shards,
)
from training.cli import app
from training.data import shards
from training.data.clip_index import evenly, held_out
from training.data.clip_sets import lpr_test
from training.data.errors import DataError
from training.data.index import INDEX, load_index, save_index
from training.data.lpr4m import open_lpr, parse_full
from training.data.pictures import FilePictures
from training.data.records import Box, duration_type, products_type, scale_type, to_boxes
from training.data.shards import find_shards, open_shards
from training.data.wrong_lines import WrongLines


@pytest.mark.parametrize("tar", [True, False])
def test_every_picture_is_found_in_its_shard(tmp_path: Path, tar: bool) -> None:
    pictures = every_picture()
    write_shards(tmp_path / "some" / "where", pictures, tar=tar)
    for opened in (open_shards(tmp_path), open_shards(tmp_path)):  # indexed, then from the index
        assert len(opened) == len(pictures)
        assert all(opened.read(name) == data for name, data in pictures.items())
        assert opened.original_size(IMAGES[0]) == (540, 720)
        assert "nowhere" not in opened
        with pytest.raises(DataError, match="nowhere"):
            opened.read("nowhere")


def test_shards_are_found_at_any_depth_without_asking_after_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "2024" / "frames", every_picture(), tar=False)
    write_shards(tmp_path / "pictures", every_picture(), tar=True)
    (tmp_path / "2024" / "7").mkdir()
    folders = [tmp_path / "2024" / "frames" / f"{shard:05d}" for shard in range(3)]
    tars = [tmp_path / "pictures" / f"{shard:05d}.tar" for shard in range(3)]
    asked: list[Path] = []
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: asked.append(path) or is_dir(path))
    assert find_shards(tmp_path) == folders + tars
    assert not [path for path in asked if path.suffix]


def test_an_index_of_other_shards_is_made_anew(tmp_path: Path) -> None:
    pictures = every_picture()
    names = list(pictures)
    write_shards(tmp_path / "a", {name: pictures[name] for name in names[:3]}, tar=True)
    assert names[4] not in open_shards(tmp_path)
    write_shards(tmp_path / "b", {name: pictures[name] for name in names[3:]}, tar=True)
    assert open_shards(tmp_path).read(names[4]) == pictures[names[4]]


@pytest.mark.parametrize("tar", [True, False])
def test_of_an_id_that_is_there_twice_the_first_picture_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tar: bool
) -> None:
    pictures = every_picture()
    write_shards(tmp_path / "a", pictures, tar=tar)
    others = {name: jpeg((0, 250, 0)) for name in IMAGES}
    write_shards(tmp_path / "b", others | {"new": jpeg((0, 0, 0))}, tar=not tar)
    for _ in range(2):  # indexed, then from the index
        opened = open_shards(tmp_path)
        assert len(opened) == len(pictures) + 1 and "new" in opened
        assert all(opened.read(name) == data for name, data in pictures.items())
    [record] = caplog.records
    assert record.message.startswith("2 pictures are there more than once")


def test_different_ids_that_share_a_hash_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path, every_picture(), tar=True)
    monkeypatch.setattr(shards, "hash_of", len)
    with pytest.raises(DataError, match="share a hash"):
        open_shards(tmp_path)


def test_shards_behind_linked_folders_are_found_once(tmp_path: Path) -> None:
    data, disk = tmp_path / "data", tmp_path / "disk"
    write_shards(disk / "frames", every_picture(), tar=True)
    write_shards(disk / "more" / "deep", {"new": jpeg((0, 0, 0))}, tar=False)
    data.mkdir()
    (data / "a").symlink_to(disk)
    (data / "b").symlink_to(disk / "frames")
    (disk / "more" / "around").symlink_to(data)
    found = [str(shard.relative_to(data)) for shard in find_shards(data)]
    assert found == [*(f"a/frames/{shard:05d}.tar" for shard in range(3)), "a/more/deep/00000"]
    assert "new" in open_shards(data)


def test_broken_shards_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "00000.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"00000\.tar"):
        open_shards(tmp_path / "c")
    with tarfile.open(tmp_path / "c" / "00000.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("000000000.jpg"), io.BytesIO())
    with pytest.raises(DataError, match=r"no 000000000\.json"):
        open_shards(tmp_path / "c")


def test_reads_the_full_annotations(tmp_path: Path) -> None:
    data = open_lpr(write_lpr4m(tmp_path), "lpr4m", processes=2)
    clips = [data.clips[row] for row in range(len(data.clips))]
    assert {clip.clip_id for clip in clips} == set(CLIPS)
    clip = next(clip for clip in clips if clip.clip_id == CLIPS[2])
    assert (clip.live_id, clip.image_id, clip.product_id) == (LIVES[1], IMAGES[1], IMAGES[1])
    assert clip.frames == tuple(frames_of(CLIPS[2]))
    assert (clip.title, clip.category, clip.speech) == ("A title", "Mugs", "look at this")
    assert (clip.scale, clip.duration, clip.products) == ("medium", "long", "few")
    size = data.pictures.original_size(clip.frames[0])
    assert size is not None
    assert clip.boxes[0][0].relative(*size) == Box(0, 0, 0.5, 0.5)
    product, live = data.clips.product, data.clips.live
    assert len(np.unique(product)) == len(np.unique(live)) == 2


def test_reads_the_test_with_frames_that_have_no_box(tmp_path: Path) -> None:
    test = open_lpr(write_lpr4m(tmp_path), "lpr4m").test
    first, second = test.queries
    assert (first.clip_id, first.live_id, first.truth) == (CLIPS[0], LIVES[0], (IMAGES[0],))
    assert first.frames == tuple(frames_of(CLIPS[0]))
    assert [len(boxes) for boxes in first.boxes] == [0, 1, 0, 0]
    assert (first.speech, second.speech) == ("this red one", "")
    assert [p.image_id for p in test.galleries[LIVES[1]]] == list(IMAGES)
    assert test.titles == {IMAGES[0]: "Red\u2028thing"}, "a line break of texts is none of files"


def test_without_boxes_nothing_is_said_of_what_frames_of_the_test_show(tmp_path: Path) -> None:
    folder = write_lpr4m(tmp_path)
    next((folder / "annotations").glob("test_frameid2gtbox_*")).unlink()
    test = lpr_test(open_lpr(folder, "lpr4m"))
    [frame] = test.read_frames(test.queries[0], 1, 16)
    assert frame.boxes is None and test.queries[0].duration == ""


def test_boxes_alone_do_not_tell_which_frames_a_clip_has(tmp_path: Path) -> None:
    folder = write_lpr4m(tmp_path)
    next((folder / "annotations").glob("test_frame_url_*")).unlink()
    with pytest.raises(DataError, match=r"annotations: no file test_frame_url_\*\.txt.*no box"):
        _ = open_lpr(folder, "lpr4m").test


def test_reads_the_750k_subset(tmp_path: Path) -> None:
    data = open_lpr(write_lpr750k(tmp_path), "lpr750k")
    clip = data.clips[0]
    assert (clip.clip_id, clip.product_id, clip.boxes) == (CLIPS[0], "spu-1", ())
    shown = Image.open(io.BytesIO(data.pictures.read(clip.image)))
    assert shown.getpixel((5, 5))[0] > 240  # type: ignore[index]
    assert all(frame in data.pictures for frame in clip.frames)
    query = data.test.queries[2]
    assert (query.live_id, query.truth) == (LIVES[1], (IMAGES[1],))
    assert query.frames[0] == f"query/{CLIPS[2]}/{frames_of(CLIPS[2])[0]}.jpg"
    assert all(frame in data.pictures for frame in query.frames)
    gallery = data.test.galleries[LIVES[1]]
    assert [p.image_id for p in gallery] == list(IMAGES)
    assert all(p.reference in data.pictures for p in gallery)


def test_frames_of_the_subsets_queries_may_also_be_told_from_the_root(tmp_path: Path) -> None:
    write_lpr750k(tmp_path)
    file = tmp_path / "annotations" / "testset_query_3.json"
    told = json.loads(file.read_text())
    of_root = [f"query/{frame}" for frame in told[CLIPS[2]]["frames"]]
    file.write_text(json.dumps(told | {CLIPS[2]: {"frames": of_root, "gt": [IMAGES[1]]}}))
    queries = open_lpr(tmp_path, "lpr750k").test.queries
    assert queries[2].frames == tuple(of_root)
    assert queries[0].frames[0].startswith("query/"), "the others are told as they come"


WRONG = {
    "too few columns": ("a\tb", "2 columns instead of 11"),
    "a call instead of a list": (
        full_line(CLIPS[0], IMAGES[0]).replace(str(frames_of(CLIPS[0])), "__import__('os')"),
        "column 2.*no list",
    ),
    "a frame without its box": (full_line(CLIPS[0], IMAGES[0], "[[0, 0, 1, 1]]"), "1 frames"),
    "a box of three numbers": (full_line(CLIPS[0], IMAGES[0], "[[0, 0, 1]] * 4"), "column 3"),
    "a list without end": (full_line(CLIPS[0], IMAGES[0], "[" * 100_000), "column 3.*no list"),
    "no image": (full_line(CLIPS[0], ""), "column 4"),
    "no clip id": (full_line("clip", IMAGES[0]), "no clip id"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_refused(name: str) -> None:
    line, told = WRONG[name]
    with pytest.raises(DataError, match=told):
        parse_full(line)


def test_wrong_lines_are_counted_with_their_place_every_time(tmp_path: Path) -> None:
    lines = [full_line(CLIPS[0], IMAGES[0]), full_line(CLIPS[1], IMAGES[0]), WRONG["no image"][0]]
    write_lpr4m(tmp_path, lines=lines)
    for _ in range(2):  # read, then from the index
        data = open_lpr(tmp_path, "lpr4m")
        assert (len(data.clips), data.wrong.count) == (2, 1)
        assert "training_videoinfo_full_part_00.txt:2: column 4" in data.wrong.examples[0]


def test_a_clip_that_two_files_tell_of_is_refused(tmp_path: Path) -> None:
    annotations = write_lpr4m(tmp_path) / "annotations"
    parts = sorted(annotations.glob("training_videoinfo_full_part_*.txt"))
    joined = annotations / "training_videoinfo_full.txt"
    joined.write_text("".join(part.read_text() for part in parts))
    told = r"3 clips .*twice.*full\.txt:\d .*full_part_0\d\.txt:\d"
    for _ in range(2):  # nothing is kept of it
        with pytest.raises(DataError, match=told):
            open_lpr(tmp_path, "lpr4m")


def test_the_subsets_own_validation_is_not_trained_on(tmp_path: Path) -> None:
    file = write_lpr750k(tmp_path) / "annotations" / "training_videoinfo_750k.txt"
    *lines, last = file.read_text().splitlines()
    file.write_text("\n".join(lines))
    file.with_name("training_videoinfo_val.txt").write_text(last)
    assert len(open_lpr(tmp_path, "lpr750k").clips) == 2
    file.unlink()
    with pytest.raises(DataError, match=r"no file training_videoinfo_\*"):
        open_lpr(tmp_path, "lpr750k")


def test_too_many_wrong_lines_stop(tmp_path: Path) -> None:
    lines = [full_line(CLIPS[0], IMAGES[0])] + [WRONG["no image"][0]] * 4
    write_lpr4m(tmp_path, lines=lines)
    with pytest.raises(DataError, match=r"more than 2 wrong lines.*part_0\d\.txt:\d"):
        open_lpr(tmp_path, "lpr4m", wrong=WrongLines(limit=2))


def test_a_query_of_a_livestream_without_a_gallery_is_refused(tmp_path: Path) -> None:
    write_lpr4m(tmp_path)
    gallery = tmp_path / "annotations" / "test_liveid_to_gallery_2.json"
    gallery.write_text(json.dumps({LIVES[0]: list(IMAGES)}))
    with pytest.raises(DataError, match=LIVES[1]):
        _ = open_lpr(tmp_path, "lpr4m").test


@pytest.mark.parametrize("reference", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd"])
def test_a_path_that_leads_out_of_the_data_is_refused(tmp_path: Path, reference: str) -> None:
    pictures = FilePictures(tmp_path)
    with pytest.raises(DataError, match="leads out"):
        pictures.read(reference)
    with pytest.raises(DataError, match="leads out"):
        _ = reference in pictures


def test_a_folder_of_pictures_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "query").symlink_to(tmp_path / "disk")
    pictures = FilePictures(tmp_path / "data")
    assert "query/a.jpg" in pictures and pictures.read("query/a.jpg") == b"picture"


def test_held_out_livestreams_are_whole_and_few() -> None:
    live = np.repeat(np.arange(10_000, dtype=np.uint64), 3)
    kept = held_out(live, 0.02)
    assert kept.sum() == 3 * 200
    assert not set(live[kept]) & set(live[~kept])
    assert held_out(live[:300], 0.01).sum() == 3 * 10, "of a hundred livestreams, ten"
    assert held_out(live[:60], 0.01).sum() == 3 * 2, "no more than a tenth"
    assert held_out(live[:6], 0.01).sum() == 3, "at least one of several"
    assert held_out(live[:3], 0.5).sum() == 0, "never all of them"


def test_positions_are_spread_evenly() -> None:
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(100, 4) == [12, 37, 62, 87]


def test_boxes_are_one_or_several_a_frame() -> None:
    assert to_boxes([0, 0, 2, 3]) == (Box(0, 0, 2, 3),)
    assert len(to_boxes([[0, 0, 2, 3], [1, 1, 2, 2]])) == 2
    assert to_boxes([0, 0, 0, 0]) == to_boxes([]) == ()


def test_the_papers_difficulties_begin_at_its_thresholds() -> None:
    fifth, more = Box(0, 0, 0.5, 0.4), Box(0, 0, 0.6, 0.7)
    assert scale_type([fifth, None, fifth]) == "small"
    assert scale_type([fifth, more]) == "medium"
    assert scale_type([more]) == "large"
    seen: list[Box | None] = [more] * 4
    assert duration_type([*seen, *[None] * 6]) == "short"
    assert duration_type([*seen, *[None] * 5]) == "medium"
    assert duration_type([*seen, None]) == "long"
    assert [products_type([n]) for n in (3, 4, 7, 8)] == ["few", "medium", "medium", "abundant"]


@pytest.mark.parametrize("write", [write_lpr4m, write_lpr750k])
def test_check_tells_what_is_there(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root, sheet = tmp_path / "data", tmp_path / "sheet.png"
    write(root)
    result = CliRunner().invoke(app, ["data", "check", str(root), "--sheet", str(sheet)])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["clips"], told["products"], told["livestreams"]) == (3, 2, 2)
    assert (told["missing"], told["wrong_lines"]) == (0, 0)
    assert Image.open(sheet).width > 500


def test_check_names_missing_pictures(tmp_path: Path) -> None:
    write_lpr750k(tmp_path)
    gone = next((tmp_path / "training_video_00").rglob("*-0002.jpg"))
    gone.unlink()
    next((tmp_path / "query").rglob("*-0002.jpg")).unlink()
    (tmp_path / "gallery" / LIVES[0] / f"{IMAGES[1]}-0.jpg").unlink()
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert json.loads(result.stdout.splitlines()[-1])["missing"] == 3, "clip, query and gallery"
    assert gone.name in result.output


def test_check_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert result.exit_code == 1
    assert "no known layout" in result.output


def test_an_index_made_again_leaves_the_one_that_another_run_has_mapped(tmp_path: Path) -> None:
    arrays = {"rows": np.arange(100_000)}
    save_index(tmp_path, "clips", {"of": 1}, arrays)
    mapped = load_index(tmp_path, "clips", {"of": 1})
    save_index(tmp_path, "clips", {"of": 2}, {"rows": np.zeros(3)})
    assert mapped is not None
    assert mapped["rows"][-1] == 99_999
    assert load_index(tmp_path, "clips", {"of": 1}) is None
    kept = sorted(path.name for path in (tmp_path / INDEX).iterdir())
    assert kept == ["clips-rows.npy", "clips.json"]
