"""`fastcam explain` and what is behind it: which pictures a figure holds, their titles, files, errors."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam import drawing, explanation, models, ops, pictures
from fastcam.methods import MapWarning
from fastcam.models import ModelConfig
from tests.support.commands import refused, run

SIDE = 64
STAGES = ["layer1", "layer2", "layer3", "layer4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    names = ("ant", "bee, bumblebee", "cat")
    models.save_checkpoint(
        path, models.build("resnet18", 3), ModelConfig("resnet18", 3, None, names, size=SIDE, mean=(0.5,) * 3)
    )
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    path.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(noise).resize((80, 60)).save(path / f"{index}.png")
    return path


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to `drawing.grid`: rows, labels and title of each figure."""
    calls, grid = [], drawing.grid

    def watched(rows, labels=(), title="", **options):
        calls.append((rows, list(labels), title))
        return grid(rows, labels, title, **options)

    monkeypatch.setattr(drawing, "grid", watched)
    return calls


def loaded(checkpoint, picture):
    """Network, its input, and the picture as a figure shows it."""
    model, config = models.load_checkpoint(checkpoint)
    image = pictures.load_image(picture)
    return model, pictures.Preprocess.of(config)(image)[0][None], image


def spread(map, picture):
    """A map of the whole, squashed picture in its size, by other means than the package's own."""
    return cv2.resize(np.float32(map), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)


def close(shown, expected, limit=2):
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected.astype(int)).max() <= limit


def test_one_picture_without_options(checkpoint, folder, tmp_path, drawn):
    assert "explain" in run("--help").stdout
    result = run("explain", folder / "0.png", "--weights", checkpoint, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"1 pictures, 1 files in {tmp_path / 'a'}\n"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["0_grid.png"]
    ((row,), (label,), title) = drawn[0]
    assert title == "0.png"
    assert [cell.title for cell in row] == ["original", "heatmap", "Grad-CAM"]
    model, images, picture = loaded(checkpoint, folder / "0.png")
    cam = fastcam.GradCAM(model)
    map = spread(cam(images)[0], picture)
    best = int(cam.targets[0])
    assert label == f"{best} {('ant', 'bee, bumblebee', 'cat')[best]}\n{cam.outputs.softmax(1)[0, best]:.1%}"
    assert np.array_equal(row[0].image, picture)
    close(row[1].image, drawing.colorize(map), 12)  # a step of the map is up to four of a colour
    close(row[2].image, drawing.overlay(picture, map), 9)


def test_four_stages_beside_each_other(checkpoint, folder, tmp_path, drawn):
    options = ("--layers", ",".join(STAGES), "--grid", "--targets", "cat")
    assert run("explain", folder, "--weights", checkpoint, "--out", tmp_path / "a", *options).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["0_grid.png", "1_grid.png", "2_grid.png"]
    sizes = dict(zip(STAGES, (16, 8, 4, 2), strict=True))  # a quarter of 224 would be 56, 28, 14, 7
    for number, ((row,), (label,), _) in enumerate(drawn):
        assert [cell.title for cell in row] == ["original", *(f"Grad-CAM\n{n} {s}×{s}" for n, s in sizes.items())]
        assert label.startswith("2 cat\n")
        model, images, picture = loaded(checkpoint, folder / f"{number}.png")
        for cell, layer in zip(row[1:], STAGES, strict=True):
            map = fastcam.GradCAM(model, target_layers=[layer])(images, targets=2)[0]
            close(cell.image, drawing.overlay(picture, spread(map, picture)), 9)


def test_two_classes_of_one_picture(checkpoint, folder, tmp_path, drawn):
    methods = ("--method", "gradcam,guided-backprop", "--method", "guided-gradcam")
    common = ("explain", folder / "1.png", "--weights", checkpoint, "--out", tmp_path / "a", "--grid")
    assert run(*common, *methods, "--targets", "2,bee").exit_code == 0
    rows, labels, _ = drawn[0]
    titles = ["original", "heatmap", "Grad-CAM", "guided backprop", "Guided Grad-CAM"]
    assert [[cell.title for cell in row] for row in rows] == [titles, [""] * 5]
    assert [label.split("\n")[0] for label in labels] == ["2 cat", "1 bee, bumblebee"]
    model, images, _ = loaded(checkpoint, folder / "1.png")
    for row, target in zip(rows, (2, 1), strict=True):
        for cell, method in ((row[3], fastcam.GuidedBackprop(model)), (row[4], fastcam.GuidedGradCAM(model))):
            shown = drawing.deprocess(method(images, targets=target)[0])
            expected = np.stack([cv2.resize(np.float32(plane), (80, 60)) for plane in shown.transpose(2, 0, 1)], 2)
            close(cell.image, expected)


def test_several_methods_and_saliency(checkpoint, folder, tmp_path, drawn):
    methods = ("--method", "layercam,eigencam,saliency", "--top-k", 3, "--layers", "layer3,layer4", "--fuse", "max")
    assert run("explain", folder / "1.png", "--weights", checkpoint, "--out", tmp_path / "a", *methods).exit_code == 0
    rows, labels, _ = drawn[0]
    layers = "layer3 4×4\nlayer4 2×2"
    assert [c.title for c in rows[0]] == ["original", f"LayerCAM\n{layers}", f"Eigen-CAM\n{layers}", "saliency"]
    assert len(rows) == 3
    chances = [float(label.split("\n")[1].rstrip("%")) for label in labels]
    assert chances == sorted(chances, reverse=True)
    model, images, picture = loaded(checkpoint, folder / "1.png")
    fused = fastcam.LayerCAM(model, target_layers=["layer3", "layer4"], fuse="max")(images, top_k=3)[0]
    for row, map in zip(rows, fused, strict=True):
        close(row[1].image, drawing.overlay(picture, spread(map, picture)), 9)
        grey = row[3].image
        assert (grey == grey[..., :1]).all()
        assert grey.max() > 200


def test_smoothing_reaches_the_method(checkpoint, folder, tmp_path, drawn):
    common = ("explain", folder / "1.png", "--weights", checkpoint, "--targets", 0, "--out")
    for name, smooth in (("a", "aug"), ("b", "eigen"), ("c", "aug,eigen")):
        assert run(*common, tmp_path / name, "--smooth", smooth, "--layers", "layer3").exit_code == 0
        model, images, picture = loaded(checkpoint, folder / "1.png")
        options = {f"{kind}_smooth": True for kind in smooth.split(",")}
        map = fastcam.GradCAM(model, target_layers=["layer3"])(images, targets=0, **options)[0]
        close(drawn[-1][0][0][2].image, drawing.overlay(picture, spread(map, picture)), 9)


def test_maps_summed_over_sizes(checkpoint, folder, tmp_path, drawn):
    views, common = ("--scales", "0.5,1,2", "--flip"), ("explain", folder / "1.png", "--weights", checkpoint)
    common = (*common, "--targets", 0, "--layers", "layer3", "--method", "layercam", *views, "--out")
    assert run(*common, tmp_path / "a", "--boxes", "largest", "--threshold", 0.5).exit_code == 0
    model, images, picture = loaded(checkpoint, folder / "1.png")
    cam, options = fastcam.LayerCAM(model, "layer3"), {"scales": (0.5, 1, 2), "flip": True}
    map = cam(images, targets=0, **options)[0]
    assert map.min() > 0.01  # which is not subtracted
    close(drawn[-1][0][0][1].image, drawing.colorize(spread(map, picture)), 9)
    box = cam.boxes(images, 0, threshold=0.5, **options).numpy() * ([80 / SIDE, 60 / SIDE] * 2)
    over = drawing.overlay(picture, spread(map, picture))
    close(drawn[-1][0][0][2].image, drawing.draw_boxes(over, box, drawing.PREDICTED), 9)
    assert run(*common, tmp_path / "b", "--stl10-blog").exit_code == 0
    cell = drawn[-1][0][0][0]
    assert cell.title == "map 8×8"
    close(cell.image, drawing.colorize(cam.coarse(images, 0, **options)[0].numpy()), 2)


def test_panel_with_boxes(checkpoint, folder, tmp_path, drawn):
    common = ("explain", folder / "1.png", "--weights", checkpoint, "--targets", "0,2", "--method", "gradcam,saliency")
    options = ("--boxes", "largest,all", "--threshold", 0.3, "--component-threshold", 0.5, "--layers", "layer3")
    assert run(*common, "--panel", *options, "--out", tmp_path / "a").exit_code == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["1_panel.png"]
    rows, labels, _ = drawn[0]
    assert [label.split("\n")[1:] for label in labels] == [["Grad-CAM", "layer3 4×4"]] * 2
    titles = ["original", "map", "map over picture\nred: the largest at 0.3\nmagenta: all at 0.5·max"]
    assert [[cell.title for cell in row] for row in rows] == [titles, [""] * 3]
    model, images, picture = loaded(checkpoint, folder / "1.png")
    cam = fastcam.GradCAM(model, target_layers=["layer3"])
    scale = np.array([80, 60, 80, 60]) / SIDE
    for row, target in zip(rows, (0, 2), strict=True):
        map = cam(images, targets=target)
        largest = cam.boxes(images, targets=target, threshold=0.3).numpy() * scale
        every = drawing.component_boxes(map[0], 0.5) * scale
        empty = np.zeros_like(picture)
        for boxes, color in ((largest, drawing.PREDICTED), (every, drawing.COMPONENT)):
            line = (drawing.draw_boxes(empty, boxes, color, thickness=1) == color).all(2)
            shown = (row[2].image == color).all(2)
            assert line.any()
            # Red is drawn last, over the other where they meet.
            assert shown[line].all() if color == drawing.PREDICTED else shown[line].any()
    # Without the option: the largest in panels, none in grids, and none at all when asked for none.
    reds = []
    for name, more in (("b", ["--panel"]), ("c", ["--grid"]), ("d", ["--panel", "--boxes", "none"])):
        assert run(*common, *more, "--layers", "layer3", "--out", tmp_path / name).exit_code == 0
        last = drawn[-1][0][0][2].image
        reds.append(((last == drawing.PREDICTED).all(2).any(), (last == drawing.COMPONENT).all(2).any()))
    assert reds == [(True, False), (False, False), (False, False)]


def test_the_figure_of_tutorials_with_stl10(folder, tmp_path, drawn):
    """The map as it is, the map at 128x128, and that over the picture, step by step in NumPy and OpenCV."""
    torch.manual_seed(1)
    model = models.build("resnet18", 10).eval()
    models.save_checkpoint(
        tmp_path / "stl.safetensors", model, ModelConfig("resnet18", 10, size=128, mean=(0.0,) * 3, std=(1.0,) * 3)
    )
    common = ("explain", folder / "1.png", "--weights", tmp_path / "stl.safetensors", "--method", "cam")
    result = run(*common, "--stl10-blog", "--top-k", 2, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["1_stl10.png"]
    rows, labels, title = drawn[0]
    assert title == "1.png"
    words = ["map 4×4", "map 128×128", "0.3·map + 0.5·picture"]
    assert [[cell.title for cell in row] for row in rows] == [words, [""] * 3]

    small = cv2.resize(cv2.imread(str(folder / "1.png")), (128, 128), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    with torch.no_grad():
        images = torch.from_numpy(small.copy()).permute(2, 0, 1)[None] / 255  # not normalised
        features = {}
        handle = model.layer4.register_forward_hook(lambda module, args, output: features.update(out=output[0]))
        order = model(images)[0].argsort(descending=True)[:2].tolist()
        handle.remove()
    assert [int(label.split()[1]) for label in labels] == order
    for row, c in zip(rows, order, strict=True):
        cam = model.fc.weight[c].detach().numpy() @ features["out"].reshape(512, -1).numpy()
        cam = cam.reshape(4, 4) - cam.min()
        cam = cam / cam.max()
        jet = cv2.applyColorMap(np.uint8(255 * cam), cv2.COLORMAP_JET)[..., ::-1]
        large = cv2.resize(cam, (128, 128))
        large = (large - large.min()) / (large.max() - large.min())
        heat = cv2.applyColorMap(np.uint8(255 * large), cv2.COLORMAP_JET)[..., ::-1]
        close(row[0].image, jet, 12)
        close(row[1].image, heat, 12)
        close(row[2].image, np.clip(heat * 0.3 + small * 0.5, 0, 255), 6)
    assert run(*common, "--stl10-blog", "--grid", "--blend", "0.5,0.5", "--out", tmp_path / "b").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["1_grid.png", "1_stl10.png"]
    assert drawn[-1][0][0][2].title == "0.5·map + 0.5·picture"
    for options, text in (
        (["--method", "saliency"], "`stl10_blog` needs a method that gives maps"),
        (["--smooth", "aug"], "`stl10_blog` shows the map as one layer has it"),
        (["--fuse", "mean", "--layers", "layer3,layer4"], "`stl10_blog` shows the map as one layer has it"),
    ):
        assert text in refused(*common[:4], "--stl10-blog", *options, "--out", tmp_path / "c")
    assert "1_stl10.png exists already" in refused(*common, "--stl10-blog", "--out", tmp_path / "a")


def test_numbered_results(checkpoint, folder, tmp_path):
    common = ("explain", folder, "--weights", checkpoint, "--targets", 1, "--out", tmp_path / "a", "--num-result", 2)
    assert run(*common, "--method", "guided-backprop,cam", "--boxes", "none").exit_code == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["Result1.png", "Result2.png", "cam1.png", "cam2.png", "img1.png", "img2.png"]
    model, images, picture = loaded(checkpoint, folder / "1.png")
    map = spread(fastcam.CAM(model)(images, targets=1)[0], picture)
    image, cam, result = (np.array(Image.open(tmp_path / "a" / f"{kind}2.png")) for kind in ("img", "cam", "Result"))
    assert np.array_equal(image, picture)
    close(cam, drawing.colorize(map), 12)
    close(result, drawing.overlay(picture, map, 0.5, 0.3), 5)
    assert run(*common, "--blend", "0.7,0.5", "--overwrite").exit_code == 0
    assert not np.array_equal(np.array(Image.open(tmp_path / "a" / "Result2.png")), result)


def test_a_cropped_picture_is_explained_where_the_network_saw_it(checkpoint, folder, tmp_path, drawn):
    common = ("explain", folder / "1.png", "--weights", checkpoint, "--out", tmp_path / "a")
    assert run(*common, "--resize", "crop", "--method", "gradcam,guided-backprop").exit_code == 0
    ((_, heat, _, gradients),) = drawn[0][0]
    # Of 80×60, the frame is the centre of 60·64/73 = 52.6 squared.
    inside = np.zeros((60, 80), bool)
    inside[3:56, 13:66] = True
    assert (heat.image[~inside] == drawing.colorize(np.zeros((1, 1)))[0, 0]).all()
    assert np.isin(gradients.image[~inside], (127, 128)).all()
    assert gradients.image[inside].std() > 3


def test_names_of_files(checkpoint, folder, tmp_path):
    for name in ("x/a b.png", "x/a_b.png", "x/a_b-2.png", "y/ä.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.open(folder / "0.png").save(path)
    result = run("explain", folder / "x", folder / "y", "--weights", checkpoint, "--out", tmp_path / "a")
    assert result.exit_code == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["x_a_b-2-2_grid.png", "x_a_b-2_grid.png", "x_a_b_grid.png", "y__grid.png"]


def test_damaged_pictures_are_named(checkpoint, folder, tmp_path):
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = run("explain", folder, "--weights", checkpoint, "--out", tmp_path / "a")
    assert result.exit_code == 3
    assert result.stdout.startswith("3 pictures, 2 files")
    assert result.stderr.startswith("fastcam: 1.png: damaged: ")


def test_logits_that_are_not_finite_are_an_error_of_that_picture(folder, tmp_path):
    model = models.build("resnet18", 3)
    nn.init.constant_(model.fc.bias, float("nan"))
    summary = explanation.explain(model, folder / "0.png", out=tmp_path, config=ModelConfig("resnet18", 3, size=32))
    assert summary.errors == (("0.png", "model: its logits are not finite"),)
    assert summary.files == ()


def test_the_model_stays_as_it_was(folder, tmp_path):
    model = models.build("resnet18", 3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    options = {"methods": ["gradcam", "layercam", "guided-gradcam"], "layers": ["layer3", "layer4"]}
    with pytest.warns(MapWarning, match="layer4 gives maps of 1x1"):
        summary = fastcam.explain(
            model, [folder / "0.png"], out=tmp_path / "a", config=ModelConfig("resnet18", 3, size=32), **options
        )
    assert summary.pictures == len(summary.files) == 1
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_wrong_usage(checkpoint, folder, tmp_path):
    common = ("explain", folder / "0.png", "--weights", checkpoint, "--out", tmp_path / "a")
    for options, text in (
        (["--method", "gradcan"], "unknown method 'gradcan'"),
        (["--layers", "layer5"], "no layer 'layer5'; did you mean layer4"),
        (["--targets", "3"], "class 3 in `targets` is out of range"),
        (["--targets", "bea"], "--targets: no class 'bea'; did you mean bee"),
        (["--smooth", "blur"], "`smooth` may have aug and eigen, got 'blur'"),
        (["--smooth", "aug", "--flip"], "two ways to use several views"),
        (["--scales", "1,x"], "--scales must be numbers with commas, such as 0.5,1,2; got '1,x'"),
        (["--scales", "1,1"], "`scales` must be up to 8 different numbers above 0"),
        (["--method", "saliency", "--flip"], "`flip` needs a method that gives maps"),
        (["--boxes", "small"], "`boxes` may have largest and all, got 'small'"),
        (["--threshold", 1], "`threshold` must be at least 0 and less than 1"),
        (["--component-threshold", -1], "`component_threshold` must be at least 0"),
        (["--blend", "0.5"], "--blend must be two numbers"),
        (["--blend", "-1,0.5"], "`map_weight` must be a finite number"),
        (["--method", "saliency", "--panel"], "`panel` needs a method that gives maps"),
        (["--method", "guided-backprop", "--smooth", "aug"], "`smooth` needs a method that gives maps"),
        (["--top-k", 4], "`top_k` must be an int in 1 … 3"),
        (["--method", "cam", "--layers", "layer2"], "CAM needs global average pooling"),
    ):
        assert text in refused(*common, *options), options
    assert run(*common, "--fuse", "median").exit_code == 2
    assert "no such file" in refused("explain", tmp_path / "no.png", "--weights", checkpoint, "--out", tmp_path / "a")
    plain = ("--weights", tmp_path / "w.pt", "--arch", "resnet18", "--out", tmp_path / "a", "--num-classes", 3)
    torch.save(models.build("resnet18", 3).state_dict(), tmp_path / "w.pt")
    assert "names need --class-names" in refused("explain", folder, *plain, "--targets", "bee")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="nothing to draw"):
        explanation.explain(models.build("resnet18", 3), folder, out=tmp_path, grid=False)

    assert run(*common).exit_code == 0
    assert f"{tmp_path / 'a' / '0_grid.png'} exists already" in refused(*common)
    assert run(*common, "--overwrite").exit_code == 0


@pytest.mark.long
def test_maps_of_shared_pictures_lie_on_the_objects(shared, tmp_path, drawn):
    """Cat and dog in one picture, and a bird: maps, guided gradients and boxes lie where the object is."""
    network = (
        "--weights",
        shared / "weights" / "mobilenet_v2.pt",
        "--arch",
        "mobilenet_v2",
        "--mean",
        0.5,
        "--std",
        0.5,
    )
    names = ("--class-names", shared / "images" / "ilsvrc" / "classes.txt")
    peers = shared / "images" / "peers"
    methods = ("--method", "gradcam,guided-backprop,guided-gradcam", "--targets", "tabby,pug")
    assert run("explain", peers / "both.png", *network, *names, *methods, "--out", tmp_path / "a").exit_code == 0
    rows, labels, _ = drawn[0]
    assert [label.split("\n")[0] for label in labels] == ["281 tabby, tabby cat", "254 pug, pug-dog"]
    cat, dog = np.s_[125:224, 90:215], np.s_[10:125, 70:200]  # roughly, in the 224×224 picture

    model = models.build("mobilenet_v2").eval()
    models.load_weights(model, shared / "weights" / "mobilenet_v2.pt")
    frame = pictures.Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3)(pictures.load_image(peers / "both.png"))[0][None]
    maps = fastcam.GradCAM(model)(frame, targets=[[281, 254]])[0]
    guided = fastcam.GuidedGradCAM(model)(frame, targets=[[281, 254]])[0].abs().sum(1)
    for energy in (maps, guided):
        assert energy[0][cat].sum() > 3 * energy[0][dog].sum()
        assert energy[1][dog].sum() > 3 * energy[1][cat].sum()
    for row, map in zip(rows, maps, strict=True):
        close(row[1].image, drawing.colorize(map), 12)
    hits = fastcam.metrics.pointing_game(maps, [[90, 125, 215, 224], [70, 10, 200, 125]])
    assert hits.tolist() == [True, True]

    stages = ("--layers", "features.3,features.6,features.13,features.18")
    assert run("explain", peers / "both.png", *network, *stages, "--out", tmp_path / "b").exit_code == 0
    assert [cell.title.split()[-1] for cell in drawn[-1][0][0][1:]] == ["56×56", "28×28", "14×14", "7×7"]

    bird = pictures.load_image(peers / "water-bird.JPEG")
    frame = pictures.Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3)(bird)[0][None]
    map = fastcam.GradCAM(model)(frame)
    truth = torch.tensor([[90, 105, 370, 250]]) * 224 / torch.tensor([500, 375, 500, 375])  # body, neck and bill
    assert fastcam.metrics.pointing_game(map, truth, tolerance=0).item()
    assert fastcam.evaluation.box_iou(ops.boxes(map, map.shape[1:], 0.2, relu=False), truth).item() > 0.35


def test_options_are_those_of_the_dataclass(folder, tmp_path):
    torch.manual_seed(0)
    model, few = models.build("resnet18", 3), ModelConfig("resnet18", 3, size=SIDE)
    options = {"methods": ["gradcam", "saliency"], "targets": np.arange(2), "boxes": ["all"], "blend": [1, 0.5]}
    settings = explanation.ExplainSettings(**options)
    assert settings.targets == (0, 1)
    assert explanation.ExplainSettings(methods="layercam").methods == ("layercam",)
    explanation.explain(model, folder / "0.png", out=tmp_path / "a", config=few, **options)
    explanation.explain(model, folder / "0.png", out=tmp_path / "b", config=few, settings=settings)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with pytest.raises(TypeError, match="unexpected keyword argument 'method'; did you mean methods"):
        explanation.explain(model, folder, out=tmp_path / "c", method="gradcam")
    assert "targets: class indices to explain" in explanation.explain.__doc__
