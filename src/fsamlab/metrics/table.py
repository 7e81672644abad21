"""The metric table: the facts about each logged key that all modules use. docs/metrics.md defines the keys for readers.

A new metric needs the code that logs it and one row here. The order of the rows is the order of the dashboard's panels,
of the columns of the page's results and of the panels of a figure; `headline` orders the charts of a page.
"""

from __future__ import annotations

from functools import partial

from fsamlab.metrics.row import Chart, Column, MetricRow

SECTIONS = ("accuracy", "loss", "sharpness", "curvature", "perturbation", "noise", "schedule and cost")  # of the page
DIRECTIONS = ("sam", "fsam", "sam_full", "sam_component", "sam_noise", "sam_db", "random")  # of friendliness

# A value that was measured on samples depends on how it was measured: its conventions, the `diagnostics/...` keys.
# Values of the loss on fixed samples and values of training's batches have different conventions.
OF_SAMPLES, OF_BATCHES = FAMILIES = ("sharpness and curvature", "decomposition and noise")
OF_A_STEP = "scalars of a step"  # from tensors that the step has anyway: no samples, so no conventions

FRACTION, NATS, SECONDS, COUNT, TEXT = "fraction", "nats", "s", "count", "text"
GRAD_NORM, GRAD_SQUARE, HESSIAN = "nats / weight", "(nats / weight)^2", "nats / weight^2"
BY_STEP = "global_step"

_accuracy = partial(MetricRow, unit=FRACTION, section="accuracy", percent=True, better="max")
_loss = partial(MetricRow, unit=NATS, section="loss", better="min")
_calibration = partial(MetricRow, unit=FRACTION, section="loss", percent=True, better="min")
_error = partial(MetricRow, unit="target^2", section="loss", better="min")
_sharpness = partial(MetricRow, unit=NATS, section="sharpness", family=OF_SAMPLES)
_curvature = partial(MetricRow, unit=HESSIAN, section="curvature", family=OF_SAMPLES)
_step = partial(MetricRow, section="perturbation", family=OF_A_STEP)
_batches = partial(MetricRow, section="perturbation", family=OF_BATCHES)
_noise = partial(MetricRow, section="noise", family=OF_BATCHES)
_summary = partial(MetricRow, final=False)

_ECE = Chart("loss", "expected calibration error, validation and test")
_AVERAGED = {
    name: Chart(section, f"{words} of the averaged weights, validation and test")
    for name, section, words in (("acc1", "accuracy", "accuracy"), ("loss", "loss", "loss (nats)"))
}
_NEXT = Chart("curvature", "next eigenvalues", log=True)
_ALONG = Chart("curvature", "along directions")
_EMA = Chart("perturbation", "EMA as an estimate of the full gradient: measured, predicted, independent batches")
_BATCH = Chart("perturbation", "batch and full gradient: cosine measured, predicted")
_PARTS = Chart("perturbation", "decomposition: full gradient, projection, noise (norms)", log=True)
_RISES = {
    "batch": Chart("perturbation", "friendliness: rise of the batch's loss (nats)"),
    "other": Chart("perturbation", "friendliness: rise of the other samples' loss (nats)"),
}
_NORMS = Chart("perturbation", "norms of ascent gradient and EMA, each step", BY_STEP, log=True)
_FLOORED = Chart("perturbation", "steps floored and skipped", BY_STEP)
_TRACES = Chart("noise", "tr Sigma, and its part from augmentation", log=True)
_COHERENCE = Chart("noise", "coherence measured, predicted")
_COSTS = Chart("cost", "training, evaluation, diagnostics (s)", x=None)
_SPLIT = Chart("sharpness", "one ascent step: first order and curvature (nats)")
_PARTS_OF_DATA = (("train", "training"), ("val", "validation"), ("test", "test"))
# the directions that the dashboard draws, in its order; the EMA's last
_DRAWN = ("sam", "sam_full", "sam_noise", "random", "fsam")
_IN_ORDER = (*_DRAWN, "sam_component", "sam_db")

ROWS: tuple[MetricRow, ...] = (
    _summary("step", COUNT),
    _summary("epoch", "epochs"),
    # ---------------------------------------------------------------- accuracy
    _accuracy(
        "val/acc1",
        title="validation accuracy, %",
        axis="validation accuracy (%)",
        headline=2,
        charts=(Chart("accuracy", "validation accuracy"),),
    ),
    _accuracy(
        "test/acc1",
        title="test accuracy, %",
        axis="test accuracy (%)",
        headline=1,
        charts=(Chart("accuracy", "test accuracy"),),
    ),
    _accuracy(
        "train/acc1",
        title="training accuracy in the first pass, %",
        axis="training accuracy (%)",
        headline=3,
        charts=(Chart("accuracy", "training accuracy"),),
    ),
    _accuracy(
        "best/test/acc1",
        axis="test accuracy at best validation epoch (%)",
        final=False,
        charts=(Chart("accuracy", "test accuracy at the best validation accuracy", x=None),),
    ),
    _accuracy(
        "final/test/acc1",
        axis="test accuracy at the end (%)",
        final=False,
        charts=(Chart("accuracy", "test accuracy at the end", x=None),),
    ),
    _accuracy("best/val/acc1", final=False),
    # ---------------------------------------------------------------- loss
    _loss(
        "train/loss",
        title="training loss",
        axis="training loss (nats)",
        headline=1,
        charts=(Chart("loss", "training loss (nats)", log=True),),
        columns=(Column("final/", "train loss", "training loss of the last epoch, with label noise as given"),),
    ),
    _loss(
        "train/loss_perturbed",
        title="training loss at w + eps",
        headline=2,
        charts=(Chart("loss", "training loss at w + eps (nats)", log=True),),
    ),
    _loss(
        "val/loss",
        title="validation loss",
        axis="validation loss (nats)",
        headline=3,
        charts=(Chart("loss", "validation loss (nats)"),),
    ),
    _loss(
        "test/loss",
        title="test loss",
        axis="test loss (nats)",
        headline=4,
        charts=(Chart("loss", "test loss (nats)"),),
    ),
    # ---------------------------------------------------------------- metrics of tasks
    _calibration("val/ece", title="validation calibration error, %", charts=(_ECE,)),
    _calibration("test/ece", title="test calibration error, %", axis="test calibration error (%)", charts=(_ECE,)),
    *(_accuracy(f"{part}/acc5", title=f"{words} top-5 accuracy, %") for part, words in _PARTS_OF_DATA),
    *(_error(f"{part}/mse", title=f"{words} mean squared error") for part, words in _PARTS_OF_DATA),
    *(
        MetricRow(f"{part}/r2", section="accuracy", title=f"{words} R2, explained share of the variance", better="max")
        for part, words in _PARTS_OF_DATA
    ),
    # ---------------------------------------------------------------- the averaged weights
    *(
        kind(f"{part}/ema_{name}", title=f"{words} {what} of the averaged weights", charts=charts)
        for part, words in _PARTS_OF_DATA[1:]
        for kind, name, what, charts in (
            (_accuracy, "acc1", "accuracy", (_AVERAGED["acc1"],)),
            (_accuracy, "acc5", "top-5 accuracy", ()),
            (_loss, "loss", "loss", (_AVERAGED["loss"],)),
            (_calibration, "ece", "calibration error", ()),
            (_error, "mse", "mean squared error", ()),
            (partial(MetricRow, section="accuracy", better="max"), "r2", "R2", ()),
        )
    ),
    # ---------------------------------------------------------------- schedule
    MetricRow("train/lr", title="learning rate", headline=1, charts=(Chart("loss", "learning rate", BY_STEP),)),
    MetricRow("train/loss_scale", title="scale of the loss in fp16"),
    # ---------------------------------------------------------------- sharpness
    _sharpness(
        "sharpness/one_step",
        title="one-step sharpness",
        panel="one-step sharpness",
        headline=1,
        terminal=True,
        charts=(Chart("sharpness", "one ascent step (nats)", log=True),),
        columns=(
            Column("final/", "one-step sharpness", "rise of the loss along its gradient, at the end"),
            Column("measured/", "one-step sharpness, measured", "by fsamlab measure"),
        ),
    ),
    _sharpness("sharpness/one_step_first_order", charts=(_SPLIT,)),
    _sharpness(
        "sharpness/one_step_curvature", title="one-step sharpness, curvature part", headline=2, charts=(_SPLIT,)
    ),
    _sharpness(
        "sharpness/one_step_adaptive", charts=(Chart("sharpness", "one ascent step, adaptive ball (nats)", log=True),)
    ),
    _sharpness(
        "sharpness/m_sharpness",
        title="m-sharpness",
        panel="m-sharpness",
        headline=3,
        terminal=True,
        charts=(Chart("sharpness", "m-sharpness (nats)", log=True),),
    ),
    _sharpness(
        "sharpness/worst_case",
        title="worst-case sharpness",
        panel="worst-case sharpness",
        headline=4,
        terminal=True,
        charts=(Chart("sharpness", "worst case (nats)", log=True),),
    ),
    _sharpness(
        "sharpness/m_worst_case",
        title="worst-case sharpness, mean over batches of m",
        panel="worst-case sharpness, mean over batches",
        headline=5,
        terminal=True,
        charts=(Chart("sharpness", "worst case, mean over batches of m (nats)", log=True),),
    ),
    _sharpness(
        "sharpness/average_case",
        title="average-case sharpness",
        panel="average-case sharpness",
        headline=6,
        charts=(Chart("sharpness", "average case (nats)", log=True),),
    ),
    *(
        _sharpness(f"sharpness/{name}{ball}{part}")
        for name in ("m_sharpness", "worst_case", "m_worst_case")
        for ball in ("", "_adaptive")
        for part in ("", "_first_order", "_curvature")
        if ball or part
    ),
    *(_sharpness(f"sharpness/one_step_adaptive_{part}") for part in ("first_order", "curvature")),
    *(_sharpness(f"sharpness/average_case_{part}") for part in ("stderr", "adaptive", "adaptive_stderr")),
    # ---------------------------------------------------------------- curvature
    _curvature(
        "curvature/lambda_max",
        title="largest Hessian eigenvalue",
        panel=r"$\lambda_{\max}$ of the Hessian",
        headline=1,
        terminal=True,
        charts=(Chart("curvature", "largest eigenvalue", log=True),),
        columns=(
            Column("final/", "lambda_max", "largest eigenvalue of the Hessian, at the end"),
            Column("measured/", "lambda_max, measured", "by fsamlab measure"),
        ),
    ),
    *(_curvature(f"curvature/lambda_{i}", charts=(_NEXT,)) for i in (2, 3, 4, 5)),
    _curvature("curvature/lambda_min", charts=(Chart("curvature", "smallest eigenvalue"),)),
    _curvature("curvature/lambda_ratio", unit="-", charts=(Chart("curvature", "lambda_max / lambda_5"),)),
    _curvature("curvature/lambda_error", unit="-"),
    _curvature("curvature/lambda_converged", unit="0 or 1"),
    _curvature("curvature/lambda_products", unit=COUNT),
    _curvature(
        "curvature/trace",
        title="Hessian trace",
        panel="trace of the Hessian",
        headline=2,
        terminal=True,
        charts=(Chart("curvature", "trace", log=True),),
    ),
    _curvature("curvature/trace_stderr"),
    *(
        _curvature(f"curvature/along_{d}", family=OF_BATCHES, charts=(_ALONG,) if d in _DRAWN else ())
        for d in _IN_ORDER
    ),
    # ---------------------------------------------------------------- decomposition of the perturbation
    _batches(
        "perturbation/cos_ema_full",
        title="cos(m, g): EMA and full gradient",
        headline=8,
        terminal=True,
        charts=(_EMA,),
    ),
    _batches("perturbation/cos_ema_full_predicted", charts=(_EMA,)),
    _batches("perturbation/cos_ema_full_independent", charts=(_EMA,)),
    _batches(
        "perturbation/cos_batch_full",
        title="cos(g_B, g): batch and full gradient",
        headline=6,
        terminal=True,
        charts=(_BATCH,),
    ),
    _batches("perturbation/cos_batch_full_predicted", charts=(_BATCH,)),
    _batches("perturbation/cos_batch_ema"),
    _batches(
        "perturbation/cos_d_full",
        title="cos(d, g): what F-SAM's direction has left of g",
        headline=7,
        charts=(Chart("perturbation", "full gradient left in F-SAM's direction: cos(d, g)"),),
    ),
    _batches("perturbation/full_grad_norm", GRAD_NORM, charts=(_PARTS,)),
    _batches("perturbation/projection_norm", GRAD_NORM, charts=(_PARTS,)),
    _batches("perturbation/noise_norm", GRAD_NORM, charts=(_PARTS,)),
    _batches(
        "perturbation/full_share",
        FRACTION,
        title="full gradient's share of |g_B|^2 (sign lost), %",
        percent=True,
        headline=5,
        charts=(Chart("perturbation", "share of the full gradient in the batch's"),),
    ),
    _batches(
        "perturbation/ema_norm_ratio",
        charts=(Chart("perturbation", "norm of the EMA over that of the full gradient"),),
    ),
    *(
        _batches(f"perturbation/rise_{who}_{d}", NATS, charts=(chart,) if d in _DRAWN and d != "random" else ())
        for who, chart in _RISES.items()
        for d in _IN_ORDER
    ),
    *(_batches(f"perturbation/rise_{who}_{d}_first_order", NATS) for who in _RISES for d in DIRECTIONS),
    # ---------------------------------------------------------------- scalars of a step
    _step(
        "perturbation/grad_norm",
        GRAD_NORM,
        title="|a|, norm of the ascent gradient",
        headline=4,
        charts=(_NORMS,),
    ),
    _step("perturbation/ema_norm", GRAD_NORM, charts=(_NORMS,)),
    _step(
        "perturbation/cos_ema",
        title="cos(a, m): gradient and EMA",
        headline=1,
        charts=(Chart("perturbation", "cos(a, EMA), each step", BY_STEP),),
    ),
    _step(
        "perturbation/d_ratio",
        title="|d| / |a|",
        headline=2,
        charts=(Chart("perturbation", "abs(d) / abs(a), each step", BY_STEP),),
    ),
    _step("perturbation/cos_eps", title="cos(eps, a)", headline=3),
    _step(
        "perturbation/ema_coefficient",
        charts=(Chart("perturbation", "share of the EMA in a (sigma), each step", BY_STEP),),
    ),
    _step("perturbation/full_norm", GRAD_NORM),
    _step("perturbation/cos_full"),
    _step("perturbation/full_coefficient"),
    _step("perturbation/rho", charts=(Chart("perturbation", "radius, each step", BY_STEP),)),
    _step("perturbation/floored_share", FRACTION, percent=True, charts=(_FLOORED,)),
    _step("perturbation/perturbed_share", FRACTION, percent=True),
    _step("perturbation/skipped_share", FRACTION, percent=True, charts=(_FLOORED,)),
    _step("perturbation/loss_clean", NATS),
    _step("perturbation/loss_perturbed", NATS),
    # ---------------------------------------------------------------- gradient noise
    _noise(
        "noise/scale",
        "samples",
        title="noise scale tr Sigma / |mu|^2, samples (ratio of means)",
        headline=1,
        terminal=True,
        ratio_of=("noise/trace_sigma", "noise/grad_sq"),
    ),
    _noise("noise/trace_sigma", GRAD_SQUARE, title="tr Sigma", headline=2, charts=(_TRACES,)),
    _noise("noise/trace_augmentation", GRAD_SQUARE, charts=(_TRACES,)),
    _noise(
        "noise/grad_sq",
        GRAD_SQUARE,
        title="|mu|^2, unbiased",
        headline=3,
        charts=(Chart("noise", "squared norm of the mean gradient"),),
    ),
    _noise("noise/coherence", charts=(_COHERENCE,)),
    _noise("noise/coherence_predicted", charts=(_COHERENCE,)),
    # ---------------------------------------------------------------- time and cost
    _summary(
        "time/step_ms",
        "ms",
        title="time of a step, ms",
        headline=2,
        charts=(Chart("cost", "time of a step (ms)"),),
    ),
    _summary("time", SECONDS, charts=(Chart("cost", "time so far (s)"),)),
    _summary(
        "cost/train_seconds",
        SECONDS,
        charts=(Chart("cost", "test accuracy over training time (s)", points="best/test/acc1"), _COSTS),
    ),
    _summary("cost/eval_seconds", SECONDS, charts=(_COSTS,)),
    _summary("cost/diagnostics_seconds", SECONDS, charts=(_COSTS,)),
    _summary("cost/step_ms", "ms"),
    _summary("cost/steps", COUNT),
    _summary("cost/epochs", "epochs"),
    _summary("cost/passes", "epochs of SGD"),
    _summary("cost/passes_per_step", "passes"),
    # ---------------------------------------------------------------- facts of a run
    _summary("perturbation/num_floored", COUNT, section="perturbation", family=OF_A_STEP),
    _summary("perturbation/num_skipped", COUNT, section="perturbation", family=OF_A_STEP),
    _summary("train/diverged_at", COUNT),
    *(_summary(f"data/num_{part}", COUNT) for part in ("train", "val", "test")),
    _summary("data/effective_label_noise", FRACTION),
    _summary("data/class_counts", TEXT),
    _summary("data/split_hash", TEXT),
    *(_summary(f"task/{key}", TEXT) for key in ("headline", "title")),
    *(_summary(f"task/{key}", "true or false") for key in ("higher_is_better", "percent")),
    # ---------------------------------------------------------------- conventions of measured values
    *(
        _summary(f"diagnostics/{key}", unit, family=OF_SAMPLES)
        for key, unit in (
            *(("num_samples", COUNT), ("sample_hash", TEXT), ("batch_size", COUNT), ("batchnorm", TEXT)),
            *(("augment", "true or false"), ("rho", "weight"), ("rho_adaptive", "-"), ("eta", "weight"), ("p", TEXT)),
            *(("parameters", TEXT), ("num_parameters", COUNT), ("dtype", TEXT), ("label_smoothing", FRACTION)),
            ("loss", TEXT),
            *(("weight_decay", TEXT), ("dropout", TEXT), ("num_ascent_steps", COUNT), ("num_restarts", COUNT)),
            *(("num_pairs", COUNT), ("num_probes", COUNT), ("tolerance", "-")),
        )
    ),
    *(
        _summary(f"diagnostics/{key}", unit, family=OF_BATCHES)
        for key, unit in (
            *(("num_batches", COUNT), ("perturbation_num_samples", COUNT), ("perturbation_batchnorm", TEXT)),
            *(("perturbation_batch_size", COUNT), ("perturbation_augment", "true or false")),
            *(("perturbation_dropout", TEXT), ("perturbation_batches", TEXT), ("perturbation_rho", "weight")),
        )
    ),
)

# For keys without a row, from a user's own task, axis or loop: the first pattern that fits. A value below a prefix of
# diagnostics counts as measured, so that figures compare it only under equal conventions.
PATTERNS: tuple[MetricRow, ...] = (
    *(_accuracy(f"{part}/acc*") for part in ("train", "val", "test")),
    *(
        _loss(f"{part}/{error}", unit=unit)
        for part in ("train", "val", "test")
        for error, unit in (("loss*", NATS), ("rmse", "target"), ("mae", "target"))
    ),
    *(MetricRow(f"{part}/*", section="accuracy") for part in ("val", "test")),
    _sharpness("sharpness/*"),
    _curvature("curvature/along_*", family=OF_BATCHES),
    _curvature("curvature/*"),
    _step("perturbation/*_coefficient"),
    _batches("perturbation/*_share", FRACTION, percent=True),
    _batches("perturbation/*"),
    _noise("noise/*"),
    _summary("time/*", SECONDS),
    _summary("cost/*", SECONDS),
    _summary("diagnostics/perturbation_*", family=OF_BATCHES),
    _summary("diagnostics/*", family=OF_SAMPLES),
    MetricRow("*/*_share", FRACTION, percent=True),
    *(_accuracy(f"*/{name}") for name in ("acc1", "acc5")),  # on another data set
    _loss("*/loss"),
    *(_calibration(f"*/{name}") for name in ("ece", "ce", "mce")),
    MetricRow("*/*"),
    _summary("*"),
)
