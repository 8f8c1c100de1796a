import numpy as np
import pytest

from noisylabels.errors import ConfigError, DataError
from noisylabels.paper.protocol import DATASETS, SCALES, SETTINGS, Protocol, Setting, recipe
from noisylabels.run import config
from noisylabels.run.plan import plan


@pytest.mark.parametrize("scale", SCALES)
def test_every_recipe_is_a_run(scale):
    protocol = Protocol(scale)
    assert protocol.datasets
    assert protocol.seeds == {"paper": 5, "digits": 5}.get(scale, 3)
    for dataset in protocol.datasets:
        run = config.parse(protocol.base(dataset))
        assert run.data.name == dataset


def test_the_papers_recipe_is_the_papers():
    run = config.parse(Protocol("paper").base("cifar100"))
    assert (run.model.name, run.epochs, run.batch_size) == ("resnet18", 150, 128)
    sgd = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    assert (run.optimizer.name, run.optimizer.parameters) == ("sgd", sgd)
    assert (run.lr_schedule.name, run.augment.name) == ("cosine", "crop-flip")
    large = config.parse(Protocol("paper").base("webvision"))
    assert (large.epochs, large.batch_size, large.clip_norm) == (250, 512, 5)
    factors = large.lr_schedule.parameters["end"] ** (1 / 250)
    assert factors == pytest.approx(0.97, abs=1e-6)


def test_settings_are_the_columns_of_the_tables():
    assert [setting.key for setting in SETTINGS] == [
        *(f"symmetric:{rate}" for rate in (0.2, 0.4, 0.6, 0.8)),
        *(f"{kind}:{rate}" for kind in ("asymmetric", "instance") for rate in (0.2, 0.4)),
    ]
    assert Setting("symmetric", 0.6).title == "symmetric 60 %"


def test_published_labels_are_used_where_they_are(tmp_path):
    (tmp_path / "symmetric").mkdir()
    file = tmp_path / "symmetric" / "cifar10_60.npy"
    np.save(file, np.zeros(50_000, dtype=np.int64))
    protocol = Protocol("features", labels=tmp_path)
    assert protocol.noise("cifar10", Setting("symmetric", 0.6)) == {
        "name": "file",
        "path": str(file),
    }
    made = {"name": "symmetric", "rate": 0.4}
    assert protocol.noise("cifar10", Setting("symmetric", 0.4)) == made
    assert Protocol("features").noise("cifar10", Setting("symmetric", 0.4)) == made


def test_other_noise_that_depends_on_the_example_is_never_a_published_file(tmp_path):
    (tmp_path / "instance").mkdir()
    np.save(tmp_path / "instance" / "cifar10_40.npy", np.zeros(50_000, dtype=np.int64))
    protocol = Protocol("small", labels=tmp_path, instance="margin")
    found = protocol.noise("cifar10", Setting("instance", 0.4))
    assert found == {"name": "margin", "rate": 0.4}


def test_data_is_looked_for_in_a_folder_of_its_own_name(tmp_path):
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "train.parquet").touch()
    protocol = Protocol("small", data=tmp_path)
    assert protocol.base("cifar100")["data"] == {
        "name": "parquet",
        "root": str(tmp_path / "cifar100"),
        "label": "fine_label",
        "limit": 5000,
    }
    assert protocol.base("cifar10")["data"] == {
        "name": "cifar10",
        "root": str(tmp_path),
        "limit": 5000,
    }


def test_asymmetric_noise_needs_no_names_of_classes():
    for dataset in ("cifar10", "cifar100"):
        made = Protocol("small").noise(dataset, Setting("asymmetric", 0.4))
        assert made == {"name": "asymmetric", "rate": 0.4, "map": dataset}
    assert "map" not in Protocol("small").noise("cifar10", Setting("symmetric", 0.4))


def test_another_network_keeps_the_scales_width():
    assert Protocol("small", network="resnet34").base("cifar10")["model"] == {
        "name": "resnet34",
        "width": 16,
    }
    assert Protocol("paper", network="cnn").base("cifar10")["model"] == {"name": "cnn"}


def test_weights_are_those_of_the_features(tmp_path):
    found = Protocol("features", weights=tmp_path / "w.pth").base("cifar10")["features"]
    assert found["weights"] == str(tmp_path / "w.pth")
    assert found["dimensions"] == 256


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": "smal"}, ConfigError, "unknown scale 'smal': did you mean 'small'"),
        ({"labels": "nowhere"}, DataError, "nowhere: expected a folder of label files"),
        ({"weights": "w"}, ConfigError, "--weights is of scale 'features', got scale 'small'"),
        ({"network": "vgg"}, ConfigError, "unknown network 'vgg'"),
        ({"scale": "digits", "network": "cnn"}, ConfigError, "--network is of scales 'paper' and"),
        ({"instance": "x"}, ConfigError, "unknown instance-dependent noise 'x'"),
    ],
)
def test_options_that_do_not_fit(tmp_path, changes, error, message):
    given = {"scale": "small"} | changes
    for name in ("labels", "weights"):
        if name in given:
            given[name] = tmp_path / given[name]
    with pytest.raises(error, match=message):
        Protocol(**given)


def test_a_dataset_that_a_scale_does_not_have():
    with pytest.raises(ConfigError, match=r"scale 'digits' has no CIFAR-100 \(it has: digits\)"):
        Protocol("digits").base("cifar100")
    with pytest.raises(ConfigError, match=r"scale 'digits' has no cifar \(it has: digits\)"):
        Protocol("digits").base("cifar")


@pytest.mark.parametrize("scale", SCALES)
def test_tuned_values_fit_their_losses(scale):
    """Every value that is committed reaches the loss or optimiser that it is for."""
    protocol = Protocol(scale)
    for dataset in protocol.datasets:
        for key, values in protocol.tuned(dataset).items():
            tables = {"data": "digits", "epochs": 2} | values_as_tables(key, values)
            made = plan(config.parse(tables), trial=False)
            assert made.config.epochs == 2


def values_as_tables(key, values):
    from noisylabels.losses import LOSSES
    from noisylabels.studies.study import with_changes

    name = "loss.name" if key in LOSSES else "method.name"
    return with_changes(
        {"loss": "ce", "method": "single", "optimizer": "sgd"},
        {name: key.removesuffix("+dal")} | values,
    )


def test_recipes_of_bigger_methods_are_found():
    assert recipe("elr", "cifar100")["method"] == {"name": "elr", "beta": 0.9, "lamb": 7.0}
    assert set(DATASETS) == {"cifar10", "cifar100", "animal10n", "webvision", "digits"}
