# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every command that README and docs show is run by a test, in a small form.

``RUN_BY`` names the test for each program, option, setting and environment variable that occurs in
a command. What only the documentation shows is run below.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / 'tests' / name) for name in ('test_packaging', 'test_checkpoints')]
from test_docs import OPTIONS_OF, PAGES, commands  # noqa: E402
from test_swin_acmix_checkpoint import authors_weights  # noqa: E402

from small_settings import settings  # noqa: E402

HERE = 'test_packaging/test_docs_commands.py'
COMMANDS = 'test_packaging/test_commands.py'
TRAIN_TEST = 'test_tools/test_train_test.py'
LAUNCHERS = 'test_tools/test_launchers.py'
DOCTOR = 'test_tools/test_doctor.py'
MAKE = f'{COMMANDS}::test_command_leads_to_its_program_through_set_up'
SETTINGS = 'test_packaging/test_docs.py::test_settings_are_those_of_the_config'
NODES = f'{LAUNCHERS}::test_several_machines_without_slurm'
SLURM = f'{LAUNCHERS}::test_slurm_job_trains_on_two_nodes'
MINIATURE = 'test_benchmarks/test_miniature.py::test_tool_goes_on_after_an_interruption'
EXPORT = 'test_deploy/test_export.py'
PUBLISH = 'test_checkpoints/test_publish.py::test_tool'
TUTORIAL = 'test_packaging/test_tutorials.py::test_tutorial'
DEMO = 'test_demo/test_image_demo.py::test_demo_names_what_it_skips'
CAM = 'test_analysis/test_cam.py::test_tool_draws_models_side_by_side'
CURVES = 'test_analysis/test_curves.py::test_tool'
BENCHMARK = f'{HERE}::test_benchmark'
RUN_BY = {
    'make demo': MAKE,
    'make test': MAKE,
    'make setup': MAKE,
    'make figures': 'test_benchmarks/test_make_figures.py::test_command_writes_the_picture',
    'demo/image_demo.py': DEMO,
    'demo/image_demo.py --out-dir': DEMO,
    'demo/image_demo.py --gallery': DEMO,
    **dict.fromkeys(
        [f'demo/{name}_demo.py' for name in ('onnx', 'openvino', 'ncnn')],
        'test_demo/test_exported_demo.py::test_file_says_the_way_from_picture_to_boxes',
    ),
    'demo/executorch_demo.py': 'test_demo/test_exported_demo.py::test_labels_of_pixels',
    'tools/deploy/export.py model.data_preprocessor.pad_size_divisor=': 'test_clients/'
    'test_runtimes.py::test_runtime',
    'pip install': 'test_packaging/test_wheel.py::test_wheel_works_away_from_the_checkout',
    'tools/train.py': f'{HERE}::test_first_run',
    'tools/train.py --amp': f'{TRAIN_TEST}::test_mixed_precision_without_gpu_is_refused',
    'tools/train.py --auto-scale-lr': f'{TRAIN_TEST}::trained',
    'tools/train.py --resume': f'{TRAIN_TEST}::test_resume_goes_on_where_training_stopped',
    'tools/train.py train_dataloader.batch_size=': f'{DOCTOR}::'
    'test_command_and_batch_are_those_of_this_machine',
    'tools/train.py model.backbone.init_cfg.checkpoint=': f'{HERE}::'
    'test_detector_starts_from_the_classifier',
    **{
        f'tools/train.py {split}_dataloader.dataset.data_root=': f'{DOCTOR}::'
        'test_what_is_wrong_with_a_data_set_is_said'
        for split in ('train', 'val', 'test')
    },
    'tools/train.py model.backbone.rates=': f'{HERE}::test_settings_of_the_backbone',
    'tools/train.py default_hooks.non_finite.find_layer=': 'test_reliability/test_finite.py::'
    'test_layer_is_named_on_request',
    'tools/train.py optim_wrapper.constructor=': f'{HERE}::test_layer_decay',
    'tools/train.py optim_wrapper.paramwise_cfg.layer_decay_rate=': f'{HERE}::test_layer_decay',
    'tools/train.py visualizer.vis_backends.0.type=': SETTINGS,
    'tools/train.py visualizer.vis_backends.0.init_kwargs.project=': SETTINGS,
    'tools/test.py': f'{HERE}::test_first_run',
    'tools/test.py --show-dir': f'{HERE}::test_first_run',
    'tools/test.py --interval': f'{TRAIN_TEST}::'
    'test_testing_repeats_validation_and_writes_and_draws_predictions',
    'tools/test.py --tta': f'{TRAIN_TEST}::test_detection_and_segmentation',
    'tools/test.py model.backbone.deploy=': f'{TRAIN_TEST}::'
    'test_folded_checkpoint_gives_the_same_predictions',
    'mmdmformer.train': 'test_plugin/test_stock_configs.py::test_our_entry_trains_a_stock_config',
    'mmdmformer.test': f'{HERE}::test_first_run',
    '-c': 'test_plugin/test_stock_configs.py::test_stock_tool_tests_our_config_and_refuses_code',
    'tools/dist_train.sh': f'{LAUNCHERS}::'
    'test_two_jobs_at_the_same_time_train_with_two_processes_each',
    **dict.fromkeys(
        [f'tools/dist_train.sh {name}=' for name in ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT')],
        NODES,
    ),
    'tools/dist_test.sh': f'{LAUNCHERS}::test_testing_with_two_processes_gives_the_metric_of_one',
    'tools/slurm_train.sh': SLURM,
    **dict.fromkeys(
        [
            f'tools/slurm_train.sh {name}='
            for name in ('GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS')
        ],
        SLURM,
    ),
    **dict.fromkeys(
        [f'tools/slurm_train.sh {name}=' for name in ('REQUEUE', 'SBATCH_ARGS')],
        'test_reliability/test_signals.py::'
        'test_slurm_job_is_queued_again_as_long_as_it_is_interrupted',
    ),
    'tools/doctor.py': f'{DOCTOR}::test_tool_prints_one_page',
    'tools/doctor.py --amp': f'{DOCTOR}::test_config_that_cannot_train_is_refused',
    'demo/make_mini_data.py': f'{HERE}::test_first_run',
    **{
        f'tools/dataset_converters/{name}.py': 'test_datasets/test_converters.py::'
        'test_tool_says_a_mistake_in_one_sentence'
        for name in ('imagenet', 'coco')
    },
    'tools/dataset_converters/ade20k.py': 'test_datasets/test_converters.py::'
    'test_tool_unpacks_with_a_progress_bar_and_says_what_is_incomplete',
    'tools/dataset_converters/imagenet.py --out': 'test_datasets/test_converters.py::'
    'test_tool_unpacks_with_a_progress_bar_and_says_what_is_incomplete',
    **dict.fromkeys(
        [f'tools/dataset_converters/{name}.py' for name in ('split_folders', 'instance_masks')],
        TUTORIAL,
    ),
    **dict.fromkeys(
        [f'tools/dataset_converters/voc.py{option}' for option in ('', ' --classes')], TUTORIAL
    ),
    **dict.fromkeys(
        [
            f'tools/analysis_tools/browse_dataset.py{option}'
            for option in ('', ' --not-show', ' --output-dir', ' --show-number')
        ],
        TUTORIAL,
    ),
    'tools/model_converters/reparameterize_model.py': f'{TRAIN_TEST}::'
    'test_folded_checkpoint_gives_the_same_predictions',
    'tools/model_converters/publish_model.py': PUBLISH,
    'tools/model_converters/publish_model.py --ema': PUBLISH,
    'tools/model_converters/timm_names.py': 'test_apis/test_timm.py::test_tool',
    **dict.fromkeys(
        [f'tools/deploy/export.py{option}' for option in ('', ' --sizes', ' --batches')],
        f'{EXPORT}::test_tools',
    ),
    'tools/deploy/export.py --backbone': f'{EXPORT}::test_onnx',
    'tools/deploy/export.py --raw': f'{EXPORT}::test_onnx',
    'tools/deploy/export.py --int8': f'{EXPORT}::test_int8_command',
    'tools/deploy/export.py --calibration': f'{EXPORT}::test_int8_command',
    'tools/model_converters/swin_acmix.py': f'{HERE}::test_checkpoint_of_the_authors',
    **dict.fromkeys(
        ['tools/misc/print_config.py', 'tools/analysis_tools/get_flops.py'],
        'test_tools/test_pure_python_config.py::test_tool',
    ),
    'tools/visualization/vis_scheduler.py': 'test_analysis/test_schedule.py::'
    'test_training_uses_the_rates_that_are_shown',
    'tools/visualization/vis_scheduler.py --gpus': f'{HERE}::test_schedule_of_other_gpus',
    'tools/visualization/vis_scheduler.py --auto-scale-lr': f'{HERE}::test_schedule_of_other_gpus',
    'benchmarks/paper_table.py': 'test_benchmarks/test_paper_table.py::'
    'test_sizes_and_tables_are_up_to_date',
    'benchmarks/paper_table.py --check': 'test_benchmarks/test_paper_table.py::'
    'test_sizes_and_tables_are_up_to_date',
    **dict.fromkeys(
        ['benchmarks/mixer_table.py', 'benchmarks/mixer_table.py --check'],
        'test_benchmarks/test_mixer_table.py::test_the_page_is_up_to_date',
    ),
    'benchmarks/mixer_table.py --fields': 'test_benchmarks/test_mixer_table.py::'
    'test_fields_are_measured_and_kept',
    **dict.fromkeys(
        ['benchmarks/papers.py', 'benchmarks/papers.py --check'],
        'test_benchmarks/test_papers.py::test_the_page_is_up_to_date',
    ),
    'benchmarks/plot_accuracy.py': 'test_benchmarks/test_papers.py::test_accuracies_are_drawn',
    'benchmarks/acmix_stages.py': 'test_benchmarks/test_acmix_stages.py::'
    'test_the_page_shows_what_is_computed',
    'benchmarks/path_rates.py': 'test_benchmarks/test_path_rates.py::'
    'test_tool_prints_and_plots_what_was_trained',
    'benchmarks/unified_view.py': 'test_benchmarks/test_unified_view.py::'
    'test_tool_prints_a_network_and_where_its_mixers_are',
    'benchmarks/unified_view.py --options': 'test_benchmarks/test_unified_view.py::'
    'test_tool_prints_a_network_and_where_its_mixers_are',
    'benchmarks/unified_view.py --where': 'test_benchmarks/test_unified_view.py::'
    'test_tool_prints_a_network_and_where_its_mixers_are',
    'benchmarks/convergence.py': 'test_benchmarks/test_convergence.py::test_tool_runs_in_pieces',
    'benchmarks/convergence.py --out': 'test_benchmarks/test_convergence.py::'
    'test_tool_runs_in_pieces',
    **dict.fromkeys(
        [
            f'benchmarks/attention_scaling.py{option}'
            for option in ('', ' --out', ' --repetitions', ' --sides', ' --training')
        ],
        f'{HERE}::test_attention_scaling',
    ),
    'benchmarks/reliability.py': 'test_reliability/test_damaged_images.py::'
    'test_damaged_images_are_refused_by_name_or_read_as_they_were_drawn',
    **dict.fromkeys(
        [f'benchmarks/reliability.py --{name}' for name in ('list', 'only', 'times')],
        f'{HERE}::test_sample_of_faults',
    ),
    'benchmarks/soak.py': f'{HERE}::test_soak',
    'benchmarks/train_miniature.py': f'{MINIATURE}',
    **dict.fromkeys(
        [f'benchmarks/train_miniature.py --{name}' for name in ('networks', 'page', 'seeds')],
        MINIATURE,
    ),
    **dict.fromkeys(
        [f'benchmarks/train_miniature.py --{name}' for name in ('minutes', 'report', 'tasks')],
        f'{HERE}::test_part_of_the_miniature_study',
    ),
    'tools/analysis_tools/analyze_logs.py': CURVES,
    'tools/analysis_tools/analyze_logs.py --keys': CURVES,
    'tools/analysis_tools/analyze_logs.py --smooth': CURVES,
    'tools/visualization/vis_erf.py': 'test_analysis/test_receptive_field.py::test_tool',
    'tools/visualization/vis_cam.py': CAM,
    'tools/visualization/vis_cam.py --titles': CAM,
    'benchmarks/cpu.sh': f'{HERE}::test_operator_benchmark',
    'tools/analysis_tools/benchmark.py': BENCHMARK,
    **dict.fromkeys(
        [
            f'tools/train.py {option}'
            for option in (
                '--work-dir',
                'train_dataloader.dataset.ann_file=',
                'val_dataloader.dataset.ann_file=',
            )
        ],
        TUTORIAL,
    ),
    'benchmarks/gpu.sh': 'test_benchmarks/test_gpu_script.py::test_rehearsal',
    **dict.fromkeys(
        [
            f'tools/analysis_tools/benchmark.py --{name}'
            for name in ('out', 'baseline', 'cases', 'models', 'repetitions')
        ],
        BENCHMARK,
    ),
}
OTHERS = {
    'git clone': 'needs the address of a repository',
    'cd': 'the shell',
    '.': 'the shell',
    'ln': 'the system',
    'mkdir': 'the system',
    'tar': 'the system',
    'srun': "Slurm's",
    'tensorboard': 'its own documentation',
    'pip-audit': 'needs a connection',
}
CLASSIFIER = 'configs/mini/dmformer-nano_mini-imagenet.py'
SMALL = dict(num_workers=0, image_size=32)


def parts(words):
    """What a command consists of: programs, and the options, settings and variables of each."""
    variables = []
    while re.match(r'[A-Z_]+=', words[0]):
        variables.append(words.pop(0).partition('=')[0])
    if words[0] == 'srun':
        yield 'srun'
        words = words[next(i for i, word in enumerate(words) if word == 'python') :]
    if words[0] == 'python':
        words = words[2:] if words[1] == '-m' else words[1:]
    program = words[0].removeprefix('checkout/')
    if program in ('make', 'git', 'pip'):
        program = ' '.join(words[:2])
    yield program
    if program.endswith('.sh'):
        yield from (f'{program} {name}=' for name in variables)
    if program in OTHERS or program == 'pip install':
        return
    target = OPTIONS_OF.get(program, program) if program.endswith('.sh') else program
    options = [word.partition('=')[0] for word in words if word.startswith('--')]
    yield from (f'{target} {option}' for option in options if option != '--cfg-options')
    if '--cfg-options' in options:
        settings = words[words.index('--cfg-options') + 1 :]
        yield from (f'{target} {word.partition("=")[0]}=' for word in settings if '=' in word)


SHOWN = {
    part: path.relative_to(ROOT)
    for path in PAGES
    for words in commands(path)
    for part in parts(words)
}


def test_each_command_is_run_by_a_test():
    unknown = {part: str(path) for part, path in SHOWN.items() if part not in {**RUN_BY, **OTHERS}}
    assert unknown == {}, 'run these in a test, and name it in RUN_BY'


@pytest.mark.parametrize('part', [part for part in SHOWN if part in RUN_BY])
def test_the_test_is_there(part):
    path, _, name = RUN_BY[part].partition('::')
    text = (ROOT / 'tests' / path).read_text()
    assert re.search(rf'^def {name}\(', text, re.M)
    word = part.split()[-1]
    word = word[:-1].rpartition('.')[2] if word.endswith('=') else Path(word).stem.strip('-')
    assert word in text, f'{path} does not mention {word}'


# What no other test runs


def run(python, command, *more, cwd):
    """Run a command as it is shown, with the repository's path before its files."""
    program, *words = (
        str(ROOT / word) if re.match(r'(tools|configs|demo)/|benchmarks/\w+\.py', word) else word
        for word in shlex.split(command.removeprefix('python ').removeprefix('-m '))
    )
    result = python(program, *words, *more, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def first_run(python, tmp_path_factory):
    """The folder in which the first run of docs/get_started.md was done, with fewer images."""
    folder = tmp_path_factory.mktemp('first_run')
    run(python, 'python demo/make_mini_data.py', '--scale', '0.005', cwd=folder)
    options = [*settings(CLASSIFIER, batch_size=10, max_epochs=1, **SMALL), 'param_scheduler=[]']
    run(python, f'python tools/train.py {CLASSIFIER} --cfg-options', *options, cwd=folder)
    return folder


@pytest.fixture(scope='module')
def checkpoint(first_run):
    return first_run / 'work_dirs' / Path(CLASSIFIER).stem / 'epoch_1.pth'


@pytest.mark.parametrize('entry', ['tools/test.py', '-m mmdmformer.test'])
def test_first_run(entry, python, first_run, checkpoint, tmp_path):
    options = ['--show-dir', tmp_path, '--cfg-options', *settings(CLASSIFIER, **SMALL)]
    log = run(python, f'python {entry} {CLASSIFIER} {checkpoint}', *options, cwd=first_run)
    assert 'accuracy/top1' in log
    assert len(list(tmp_path.rglob('*.png'))) == 10  # in the folders of their classes


def test_detector_starts_from_the_classifier(python, first_run, checkpoint):
    config = 'configs/mini/retinanet_dmformer-nano_fpn_mini-coco.py'
    options = settings(config, max_epochs=1, num_workers=0, batch_size=5, image_scale=(64, 64))
    options += ['param_scheduler=[]', f'model.backbone.init_cfg.checkpoint={checkpoint}']
    log = run(python, f'python tools/train.py {config} --cfg-options', *options, cwd=first_run)
    loaded, all_tensors = re.search(r'Loaded (\d+) of (\d+) tensors of DMFormer from', log).groups()
    assert int(loaded) == int(all_tensors) > 100


def test_layer_decay(python, first_run, tmp_path):
    train = (
        f'python tools/train.py {CLASSIFIER} --cfg-options '
        'optim_wrapper.constructor=LayerDecayOptimWrapperConstructor '
        'optim_wrapper.paramwise_cfg.layer_decay_rate=0.9'
    )
    options = settings(CLASSIFIER, batch_size=40, lr=1, max_epochs=1, **SMALL)
    options += ['param_scheduler=[]', '--work-dir', tmp_path]
    run(python, train, *options, cwd=first_run)
    groups = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['optimizer']['param_groups']
    rates = {round(group['lr'], 6) for group in groups}
    assert rates == {round(0.9**k, 6) for k in range(7)}  # stem, five blocks, head


def test_settings_of_the_backbone(python, first_run, tmp_path):
    config = 'configs/mini/swin-acmix-nano_mini-imagenet.py'
    options = settings(config, batch_size=40, max_epochs=1, **SMALL)
    options += ['param_scheduler=[]', 'model.backbone.rates=complementary', '--work-dir', tmp_path]
    run(python, f'python tools/train.py {config} --cfg-options', *options, cwd=first_run)
    weights = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    rates = {name.rpartition('.')[2] for name in weights if '.rates.' in name}
    assert rates == {'alpha'}  # beta is 1 - alpha


def test_checkpoint_of_the_authors(python, first_run, tmp_path):
    torch.save(dict(model=authors_weights()), tmp_path / 'theirs.pth')
    convert = 'python tools/model_converters/swin_acmix.py theirs.pth swin-acmix.pth'
    assert 'to swin-acmix.pth' in run(python, convert, cwd=tmp_path)
    config = 'configs/mini/swin-acmix-nano_mini-imagenet.py'
    test = f'python tools/test.py {config} {tmp_path}/swin-acmix.pth --cfg-options'
    log = run(python, test, *settings(config, **SMALL), cwd=first_run)
    assert 'accuracy/top1' in log


def test_schedule_of_other_gpus(python, tmp_path):
    show = 'python tools/visualization/vis_scheduler.py configs/dmformer/dmformer-s_8xb128_in1k.py'
    options = ['--cfg-options', 'train_cfg.max_epochs=10', 'param_scheduler.0.end=1']
    log = run(python, show, '--gpus', '4', '--auto-scale-lr', *options, cwd=tmp_path)
    assert '0.0005' in log  # half of 1e-3


def test_sample_of_faults(python, tmp_path):
    names = run(python, 'python benchmarks/reliability.py --list', cwd=tmp_path)
    assert 'Damaged images' in names
    sample = "python benchmarks/reliability.py --only 'Damaged configs' --times 2"
    assert '| 2 | re' in run(python, sample, cwd=tmp_path)  # read, or refused


@pytest.mark.slow
def test_soak(python, tmp_path):
    soak = ['--iterations', '32', '--out', '.']
    result = python(ROOT / 'benchmarks/soak.py', *soak, cwd=tmp_path)
    assert '4 records in .; from the second to the last quarter' in result.stdout, result.stderr
    assert len((tmp_path / 'soak.csv').read_text().splitlines()) == 5


@pytest.mark.slow
def test_part_of_the_miniature_study(python, tmp_path):
    train = "python benchmarks/train_miniature.py --networks 'no gate' --tasks classification"
    options = ['--seeds', '0', '--images', '20', '--epochs', '2', '--val-images', '20']
    options += ['--out', 'out']
    run(python, train, '--minutes', '20', *options, cwd=tmp_path)
    (tmp_path / 'out/table.md').unlink()
    run(python, 'python benchmarks/train_miniature.py --report', *options, cwd=tmp_path)
    assert '| no gate | 1 |' in (tmp_path / 'out/table.md').read_text()


def test_benchmark(python, tmp_path):
    measure = (
        "python tools/analysis_tools/benchmark.py --out out --baseline 'DMFormer-S folded' "
        "--repetitions 1 --cases inference:1x32x32 --models DMFormer-S 'DMFormer-S folded'"
    )
    run(python, measure, '--threads', '1', cwd=tmp_path)
    table = (tmp_path / 'out/table.md').read_text()
    models = re.findall(r'^\| (DMFormer-S[^|]*) \|', table, re.M)
    assert models == ['DMFormer-S', 'DMFormer-S folded']


def test_attention_scaling(python, tmp_path):
    measure = 'python benchmarks/attention_scaling.py --training --sides 4 --repetitions 1'
    run(python, measure, '--threads', '1', '--out', 'out', cwd=tmp_path)
    assert '| 16 | softmax |' in (tmp_path / 'out/table.md').read_text()


@pytest.mark.slow
def test_operator_benchmark(python, tmp_path):
    lines = subprocess.run(
        ['bash', ROOT / 'benchmarks/cpu.sh', 'operator'],
        env={**os.environ, 'PYTHON': 'echo'},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert lines
    for line in lines:
        small = ['--batches', '1', '--repetitions', '1', '--threads', '1', '--out', 'table.md']
        run(python, line, *small, cwd=tmp_path)
        assert '|' in (tmp_path / 'table.md').read_text()
