"""The suite checks itself: plants one defect at a time in a copy of the repository; some test must then fail.

Each row of `MUTANTS` is a defect that somebody might really write, and the test that must catch it. Exit 1 if one
survives, if a row no longer fits the code, or if a test fails without any defect.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEFT_BEHIND = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "dist", "build")
SECONDS = 300


class Mutant(NamedTuple):
    """A defect: in ``detrkit/<file>``, ``old`` (which occurs once) becomes ``new``; then ``tests/<test>`` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


# fmt: off
MUTANTS = [Mutant(*row) for row in (
    # matching
    ("greedy poses as optimal", "matchers/greedy.py", "optimal = False", "optimal = True",
     "test_matchers.py::test_law[greedy-cost_is_least_of_all]"),
    ("indices transposed for tall costs", "matchers/numpy.py", "Assignment(partner[by_row], by_row,",
     "Assignment(served, partner,", "test_matchers.py::test_law[numpy-cost_equals_scipy]"),
    ("dual not updated", "matchers/numpy.py", "before - max(length - when, 0.0)", "before",
     "test_matchers.py::test_dual_of_a_small_problem"),
    ("NaN replaced in matchers", "matchers/__init__.py", "= _as_float64(cost)", "= np.nan_to_num(_as_float64(cost))",
     "test_matchers.py::test_bad_costs_are_refused"),
    ("NaN replaced in the criterion", "criterion.py", ".double().numpy()", ".double().nan_to_num().numpy()",
     "test_criterion.py::test_outputs_that_are_not_finite_are_named"),
    ("L1 cost of the wrong sign", "criterion.py", '"L1": (rivals', '"L1": -(rivals',
     "test_criterion.py::test_equals_the_slow_reference"),
    ("GIoU cost of the wrong sign", "criterion.py", '"GIoU": -geometry', '"GIoU": geometry',
     "test_criterion.py::test_equals_the_slow_reference"),
    ("class cost of the wrong image", "criterion.py", "cost(logits, labels, image)", "cost(logits, labels, 0 * image)",
     "test_criterion.py::test_equals_the_slow_reference"),
    ("true boxes read as xyxy in costs", "criterion.py", "geometry.cxcywh_to_xyxy(objects)", "objects",
     "test_criterion.py::test_equals_the_slow_reference"),
    # losses
    ("eos weight on class 0", "classification/softmax.py", "weight[-1] = self.eos_coef", "weight[0] = self.eos_coef",
     "test_criterion.py::test_law[unmatched_queries_weigh_eos_coef]"),
    ("num_boxes not clamped", "criterion.py", "slots], max(normalizer.num_boxes, 1.0)", "slots], normalizer.num_boxes",
     "test_criterion.py::test_law[empty_images_are_charged_for_classes_only]"),
    ("normalised by images, not boxes", "criterion.py", "Normalizer(sum(counts)", "Normalizer(len(counts)",
     "test_criterion.py::test_law[box_losses_are_means_over_objects]"),
    ("loss without the last layer", "criterion.py", "* values.sum()", "* values[:-1].sum()",
     "test_criterion.py::test_law[total_is_the_weighted_sum]"),
    ("loss without the first layer", "criterion.py", "* values.sum()", "* values[1:].sum()",
     "test_criterion.py::test_law[total_is_the_weighted_sum]"),
    ("boxes without area accepted", "targets.py", "(boxes[:, 2:] <= 0)", "(boxes[:, 2:] < 0)",
     "test_criterion.py::test_bad_targets_are_refused_in_one_line"),
    ("boxes without area dropped in silence", "datasets/_reading.py", "flatnonzero(~keep |", "flatnonzero(keep &",
     "test_datasets.py::test_clean_boxes_clips_and_drops_and_tells"),
    # explanations
    ("losers are winners", "explanation/explanation.py", "(scores[None] > scores[:, None])",
     "(scores[None] < scores[:, None])",
     "test_explanation.py::test_losers_are_those_who_want_the_same_and_score_less"),
    ("looks without 1/sqrt(d)", "reading/__init__.py", "query * query.shape[-1] ** -0.5 @", "query @",
     "test_reading.py::test_looks_follow_what_is_read"),
    ("points looked at with x and y swapped", "looks.py", "heads, 0), shapes, points,",
     "heads, 0), shapes, points.flip(-1),",
     "test_reading.py::test_looks_follow_what_is_read"),
    # attention and positions
    ("mask inverted in attention", "attention/sdpa.py", "hidden is None else ~hidden", "hidden is None else hidden",
     "test_attention.py::test_values_worked_out_by_hand[sdpa]"),
    ("mask inverted in the model", "model.py", "return mask_at(mask, height", "return ~mask_at(mask, height",
     "test_model.py::test_the_laws_catch_a_mask_that_is_ignored"),
    ("mask left out of batches", "preprocessing.py", "mask = torch.ones(", "mask = torch.zeros(",
     "test_preprocessing.py::test_padding_by_hand"),
    ("mask ignored in the decoder", "transformer.py", "memory.tokens, mask=memory.padding", "memory.tokens",
     "test_model.py::test_layers_written_out"),
    ("softmax over queries", "attention/matrix.py", "scores.softmax(dim=-1)", "scores.softmax(dim=-2)",
     "test_attention.py::test_values_worked_out_by_hand[matrix]"),
    ("scores without 1/sqrt(d)", "attention/einops.py", "q * self.head_dim**-0.5", "q",
     "test_attention.py::test_values_worked_out_by_hand[einops]"),
    ("x and y swapped in positions", "positional/sine.py", "for axis in (1, 2)", "for axis in (2, 1)",
     "test_positional.py::test_sine_of_a_first_cell"),
    ("positions counted from 0", "positional/sine.py", "cumsum(axis, dtype=dtype)", "cumsum(axis, dtype=dtype) - 1",
     "test_positional.py::test_sine_of_a_first_cell"),
    ("positions not normalised", "positional/sine.py", "if not self.normalize:", "if True:",
     "test_positional.py::test_sine_of_a_first_cell"),
    # evaluation
    ("overlap at the threshold not enough", "evaluators/_matching.py", "(iou >= limits)", "(iou > limits)",
     "test_evaluators.py::test_equals_pycocotools_on_random_sets"),
    ("ignored objects taken like any other", "evaluators/_matching.py", "+ len(t) * ~ignored[:, None, t]", "",
     "test_evaluators.py::test_equals_pycocotools_on_random_sets"),
    ("crowds taken once", "evaluators/_matching.py", "free[..., t] | crowd[t]", "free[..., t]",
     "test_evaluators.py::test_law[numpy-set_to1-what_lies_in_ignored_regions_does_not_count]"),
    ("crowd overlap over the union", "evaluators/_matching.py", "np.where(crowd, own,", "np.where(False, own,",
     "test_evaluators.py::test_crowds_are_regions_where_nothing_counts[numpy]"),
    ("more than a hundred detections count", "evaluators/numpy.py",
     "= take(found, place < LIMITS[-1]), place[place < LIMITS[-1]]", "= found, place",
     "test_evaluators.py::test_equals_pycocotools_on_random_sets"),
    ("equal scores ranked by box alone", "evaluators/_evidence.py", "found.queries, -score", "-score",
     "test_evaluators.py::test_equal_scores_rank_by_query[numpy]"),
    ("images ranked as they come", "evaluators/__init__.py", "sorted(self._seen, key=_rank)", "self._seen",
     "test_evaluators.py::test_law[numpy-set_to1-order_of_images_does_not_matter]"),
    ("VOC counts every detection of an object", "evaluators/voc.py", "right[best[first[claimed >= 0]]] = True",
     "right[answers >= 0] = True", "test_evaluators.py::test_voc_by_hand"),
    ("duplicates read as bad boxes", "evaluation/errors.py", "(own >= 0) & (own_iou < iou)", "(own >= 0)",
     "test_evaluators.py::test_errors_by_hand"),
    ("an object puts two errors right", "evaluation/errors.py",
     "heirs[np.unique(judged.meant[heirs], return_index=True)[1]]", "heirs",
     "test_evaluators.py::test_errors_equal_those_of_hotcoco"),
    # images and detections
    ("sigmoid twice", "box_coders/sigmoid.py", "return offsets.sigmoid()",
     "return offsets.sigmoid().sigmoid()",
     "test_model.py::test_heads_written_out"),
    ("no-object scored as a class", "classification/softmax.py", "softmax(-1)[..., :-1]", "softmax(-1)",
     "test_prediction.py::test_detections_by_hand"),
    ("an image waits for others of its size for ever", "batches.py", ">= PATIENCE * batch_size - 1", "< 0",
     "test_batches.py::test_no_image_waits_for_long"),
    ("growing results keep an older tail", "streaming/results.py", "self.file.truncate()", "self.file.tell()",
     "test_streaming.py::test_a_growing_file_is_whole_after_each_addition"),
    ("detections read cxcywh as xyxy", "prediction.py", "geometry.cxcywh_to_xyxy(boxes)", "boxes",
     "test_prediction.py::test_detections_by_hand"),
    ("detections scaled by height for width", "prediction.py", "sizes.flip(-1).repeat(1, 2)", "sizes.repeat(1, 2)",
     "test_prediction.py::test_detections_by_hand"),
    ("scores sorted upwards", "selection/argmax.py", "descending=True", "descending=False",
     "test_prediction.py::test_detections_by_hand"),
    ("pairs of query and class read the wrong way", "selection/topk.py", "pairs % classes, pairs // classes",
     "pairs // classes, pairs % classes", "test_selection.py::test_by_hand[topk]"),
    ("padding seen by convolutions", "padding.py", "(inputs[0] * seen,)", "inputs",
     "test_padding.py::test_an_image_alone_is_what_it_is_in_a_batch[torchvision(model='resnet18')]"),
    ("padding wins in pools", "padding.py", "inputs[0].where(seen > 0, float(\"-inf\"))", "inputs[0] * seen",
     "test_padding.py::test_every_kind_of_module_sees_the_image_alone"),
    ("padding counted in group norms", "padding.py", "group_norm(norm, inputs[0], seen)", "normalized",
     "test_padding.py::test_an_image_alone_is_what_it_is_in_a_batch[tiny(width=8)]"),
    ("positions given at the input and again", "model.py", "with_position(tokens, positions), None",
     "with_position(tokens, positions), positions", "test_official.py::test_demo_weights_in_the_same_answers_out"),
    ("resize swaps width and height", "preprocessing.py", "resize((width, height)", "resize((height, width)",
     "test_preprocessing.py::test_resizing_by_hand"),
    ("flip without boxes", "transforms/__init__.py", "image, boxes = self.pipeline(", "image, _ = self.pipeline(",
     "test_transforms.py::test_law[flip-rectangle_is_found_where_its_box_says]"),
    ("boxes of transforms with x and y exchanged", "transforms/__init__.py", "target[\"boxes\"].double()",
     "target[\"boxes\"].double()[:, [1, 0, 3, 2]]",
     "test_transforms.py::test_law[flip-rectangle_is_found_where_its_box_says]"),
    ("objects dropped without their labels", "transforms/__init__.py", "target[\"labels\"][kept]",
     "target[\"labels\"][: kept.sum()]", "test_transforms.py::test_official_recipe_step_by_step"),
    ("transforms move the global generator", "transforms/__init__.py", "torch.random.fork_rng(devices=[])",
     "torch.random.fork_rng(devices=[], enabled=False)", "test_transforms.py::test_law[detr-nothing_else_changes]"),
    ("transforms draw as the global generator stands", "transforms/__init__.py",
     "torch.default_generator.manual_seed(seed)", "pass",
     "test_transforms.py::test_law[detr-an_item_depends_on_its_seed_alone]"),
    ("transforms forget the long side", "transforms/_steps.py", "short_side, self.long_side, self",
     "short_side, 10**6, self",
     "test_transforms.py::test_law[detr-items_keep_the_contract]"),
    ("transforms swap width and height", "transforms/_steps.py", "resized_size(height, width, short",
     "resized_size(width, height, short", "test_transforms.py::test_official_recipe_step_by_step"),
    ("zoom keeps slivers", "transforms/_steps.py", "(shown >= self.visible * _areas(boxes))", "(shown > 0)",
     "test_transforms.py::test_zoom_drops_what_is_hardly_seen"),
    ("transforms of the first epoch again", "training/data.py", "self.train.seed, epoch, index)).generate_state",
     "self.train.seed, 0, index)).generate_state", "test_transforms.py::test_training_draws_by_seed_epoch_and_index"),
    ("slivers below a pixel kept", "transforms/_steps.py", "< self.smallest).any(dim=1)", "< self.smallest).all(dim=1)",
     "test_transforms.py::test_objects_below_a_pixel_are_dropped"),
    ("a photograph fills the memory", "transforms/rt_detr.py", "_LONGEST_BEFORE_ZOOM * long_side", "10**6",
     "test_transforms.py::test_a_large_photograph_is_shrunk_before_its_canvas_grows"),
    ("sizes begin anew with a resumed run", "training/data.py", "enumerate(self.windows.shares(), self.windows.start)",
     "enumerate(self.windows.shares())", "test_multi_scale.py::test_a_stream_that_begins_late_has_the_same_sizes"),
    ("padding is rescaled with its image", "training/multi_scale.py", "image[None, :, :height, :width]", "image[None]",
     "test_multi_scale.py::test_each_image_is_rescaled_as_if_alone"),
    ("plain epochs like others", "training/data.py", "self.mild if epoch in self.plain else self.usual", "self.usual",
     "test_multi_scale.py::test_last_epochs_are_plain"),
    # training and files
    ("window normalizer ignored", "training/loop.py", "batch.targets, whole.normalizer)", "batch.targets)",
     "test_training.py::test_a_window_gives_the_same_weights_however_it_is_cut"),
    ("sampler not restored", "training/data.py", "divmod(self.start, self.per_epoch)", "0, 0",
     "test_training.py::test_a_stream_from_any_step_gives_what_an_uninterrupted_one_gives"),
    ("random state not restored", "training/state.py", 'torch.set_rng_state(random["cpu"])', "pass",
     "test_training.py::test_a_resumed_run_leaves_no_trace[3]"),
    ("optimizer not restored", "training/state.py", '{"state": saved', '{"state": {}',
     "test_training.py::test_a_resumed_run_leaves_no_trace[3]"),
    ("average not restored", "training/state.py", 'average.restore(_under("average.", tensors))', "pass",
     "test_resume.py::test_a_signal_inside_a_window_lets_the_step_finish_and_leaves_no_trace[changes0]"),
    ("own weights lost to the average", "training/ema.py", "self.model.load_state_dict(own)", "pass",
     "test_resume.py::test_the_averaged_weights_are_scored_and_kept_and_the_own_ones_go_on"),
    ("statistics of norms of the last step", "training/ema.py", "if tensor.is_floating_point():",
     "if 'running' not in name:", "test_resume.py::test_statistics_of_norms_are_averaged_and_counts_are_not"),
    ("no result without an evaluation", "training/loop.py", "self.processes.of_first(self.save_best)", "pass",
     "test_resume.py::test_where_nothing_is_scored_the_averaged_weights_are_the_result"),
    ("evaluations without progress forgotten", "training/run.py", "stale: int = 0", "stale = 0",
     "test_resume.py::test_a_run_that_ends_early_ends_at_the_same_step_when_it_was_stopped"),
    ("windows dealt out twice", "training/data.py", "range(processes.rank * batch, len(window)", "range(0, len(window)",
     "test_distributed.py::test_windows_hold_the_same_images_however_they_are_shared_out"),
    ("gradients not added up", "training/loop.py", "self.processes.add_up_gradients(trained)", "pass",
     "test_distributed.py::test_gradients_do_not_depend_on_the_number_of_processes"),
    ("random states of other processes not restored", "training/state.py", 'f"random.{rank}."', '"random.0."',
     "test_distributed.py::test_a_signal_to_one_process_stops_all_at_one_step_and_the_run_goes_on_without_a_trace"),
    ("statistics of frozen norms go on", "training/loop.py", "norm.eval()", "pass",
     "test_parameters.py::test_batch_norms_of_frozen_parts_keep_their_statistics"),
    ("what cannot be read dropped in silence", "training/window.py", "unreadable.append(left_out(error))", "pass",
     "test_bad_images.py::test_what_cannot_be_read_is_left_out_counted_and_named"),
    ("log not cut on resume", "training/log.py", "file.truncate(length)", "file.truncate()",
     "test_training.py::test_the_log_of_a_run_that_died_is_cut_to_its_checkpoint"),
    ("hash not checked", "checkpoints/storage.py", 'if header.get("sha256") !=', 'if "" ==',
     "test_checkpoints.py::test_a_flipped_bit_of_any_byte_is_detected"),
)]
# fmt: on


def misfit(mutant: Mutant, root: Path = ROOT) -> str | None:
    """Why a row no longer fits the code below ``root``; None if it does."""
    if (count := text_of(root / "detrkit" / mutant.file).count(mutant.old)) != 1:
        return f"{mutant.old!r} occurs {count} times in detrkit/{mutant.file}, not once"
    file, function = mutant.test.split("[")[0].split("::")
    if f"def {function}(" not in text_of(root / "tests" / file):
        return f"tests/{file} has no {function}"
    return None


def text_of(path: Path) -> str:
    """What a file says; nothing if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code of pytest in ``root``, and the first test that failed, else the end of what pytest says."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=0"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    # bytecode is told apart by size and second of the source, too coarse for files that change within a second
    settings = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)}
    try:
        done = subprocess.run(
            command, cwd=root, env={**os.environ, **settings}, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return -1, f"no answer within {SECONDS} s"
    failed = re.search(r"^FAILED tests/(\S+)", done.stdout, re.MULTILINE)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return done.returncode, failed[1] if failed else "".join(last)


def outcome(mutant: Mutant, root: Path) -> tuple[bool, str]:
    """Plant a defect below ``root``, run its test, take it out again: whether it is caught, and a word on it."""
    if problem := misfit(mutant, root):
        return False, f"STALE: {problem}"
    path = root / "detrkit" / mutant.file
    sound = text_of(path)
    path.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
    code, said = run_tests(root, [f"tests/{mutant.test}"])
    path.write_text(sound, encoding="utf-8")
    return code == 1, {0: "SURVIVED", 1: f"caught by {said}"}.get(code, f"NOT RUN: {said}")


def outcomes(mutants: Sequence[Mutant]) -> Iterator[tuple[str, bool, str]]:
    """Name, whether all is well, and a word: first of the same tests without a defect, then of each mutant."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / ROOT.name
        shutil.copytree(ROOT, root, ignore=LEFT_BEHIND)
        if tests := sorted({f"tests/{mutant.test}" for mutant in mutants if not misfit(mutant, root)}):
            code, said = run_tests(root, tests)
            yield "no defect", code == 0, said
        for mutant in mutants:
            yield mutant.name, *outcome(mutant, root)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the defects and run nothing")
    parser.add_argument("--only", metavar="NAME", help="plant only the defects whose name contains this")
    options = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if (options.only or "") in mutant.name]
    if not mutants:
        parser.error(f"no defect is named {options.only!r}; see --list")
    if options.list:
        print(*(f"{mutant.name:40}detrkit/{mutant.file}" for mutant in mutants), sep="\n")
        return 0
    well, start = True, time.perf_counter()
    for name, fine, word in outcomes(mutants):
        print(f"{name:40}{word}  ({time.perf_counter() - start:.0f} s)", flush=True)
        well, start = well and fine, time.perf_counter()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
