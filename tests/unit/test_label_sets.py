"""Which classes were not labelled in the samples of a job whose classes grow."""

from components.core.manifest import Manifest
from components.prepare.replay import round_manifest, with_run


def box(class_id, x=0.0):
    return {"class_id": class_id, "x1": x, "y1": 0.0, "x2": x + 10, "y2": 10.0}


def row(name, *boxes, labelled=True):
    return {"id": name, "group": name, "source": name, "annotations": list(boxes) if labelled else None}


def after(*rounds):
    """The job's samples after rounds, each its rows and class names."""
    known = None
    for number, (rows, classes) in enumerate(rounds, 1):
        arrived = Manifest.of(rows, classes)
        known = round_manifest(
            known, arrived, round_number=number, purpose="evaluate", train_ratio=0.01, val_ratio=0.01
        ).manifest
    return known


def lacking(manifest):
    """Names of the classes that were not labelled, by sample."""
    pairs = zip(manifest.table["id"], manifest.unlabelled_classes(), strict=True)
    return {id_: {manifest.classes[number] for number in numbers} for id_, numbers in pairs if numbers}


OLD = [row("a", box(0)), row("b", box(1)), row("empty"), row("waits", labelled=False)]


def test_a_class_that_comes_later_was_not_labelled_before():
    grown = after((OLD, ("helmet", "head")), ([row("c", box(0), box(2)), row("d", box(1))], ("helmet", "head", "vest")))
    assert lacking(grown) == {"a": {"vest"}, "b": {"vest"}, "empty": {"vest"}}
    # A third one adds to what is lacking, in the samples of both rounds.
    more = [row("e", box(0), box(1), box(2), box(3))]
    assert lacking(after((OLD, ("helmet", "head")), (more, ("helmet", "head", "vest", "boot")))) == {
        name: {"vest", "boot"} for name in ("a", "b", "empty")
    }


def test_a_class_that_was_named_from_the_start_was_looked_for_though_it_is_rare():
    classes = ("helmet", "head", "vest")
    assert lacking(after((OLD, classes), ([row("c", box(2))], classes))) == {}


def test_old_classes_without_a_box_in_a_round_that_brings_a_new_one_were_not_labelled_in_it():
    grown = after(
        (OLD, ("helmet", "head")), ([row("c", box(2)), row("d", box(0)), row("e")], ("helmet", "head", "vest"))
    )
    assert {name: lacking(grown)[name] for name in ("c", "d", "e")} == {name: {"head"} for name in ("c", "d", "e")}
    # A round with a new class in its list and no box of it was labelled whole, and so is one that brings nothing new.
    quiet = after((OLD, ("helmet", "head")), ([row("c", box(0))], ("helmet", "head", "vest")))
    assert "c" not in lacking(quiet)


def test_an_old_sample_that_is_labelled_again_has_labels_of_all_classes():
    again = [row("a", box(0), box(2)), row("waits", box(2)), row("c", box(0), box(1), box(2))]
    grown = after((OLD, ("helmet", "head")), (again, ("helmet", "head", "vest")))
    assert lacking(grown) == {"b": {"vest"}, "empty": {"vest"}}


def test_classes_are_joined_by_name():
    grown = after((OLD, ("helmet", "head")), ([row("c", box(0), box(1))], ("vest", "helmet")))
    assert grown.classes == ("helmet", "head", "vest")
    assert lacking(grown) == {"a": {"vest"}, "b": {"vest"}, "empty": {"vest"}, "c": {"head"}}


def test_a_single_run_with_a_new_class_counts_too():
    known = after((OLD, ("helmet", "head")))
    run = Manifest.of([row("c", box(0), box(1), box(2))], ("helmet", "head", "vest"))
    assert lacking(with_run(known, run, 2)) == {"a": {"vest"}, "b": {"vest"}, "empty": {"vest"}}


def test_what_is_withdrawn_lacks_nothing():
    grown = after((OLD, ("helmet", "head")), ([row("c", box(2), box(0), box(1))], ("helmet", "head", "vest")))
    assert "a" not in lacking(grown.without_labels(["a"]))
