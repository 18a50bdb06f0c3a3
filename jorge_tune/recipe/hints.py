"""The words that people bring to a recipe: other tools' names for our fields, and what a recipe does not say."""

from __future__ import annotations

from typing import Final

from jorge_tune.config.unknown_keys import Vocabulary

_PATHS: Final = {
    "optimizer.lr": "learning_rate learningrate max_lr base_lr lr0 lr_max peak_lr init_lr initial_learning_rate eta",
    "optimizer.weight_decay": "wd weightdecay weight_decay_rate l2 l2_reg l2_penalty lambda decay",
    "optimizer.momentum": "mom sgd_momentum momentum_factor beta mu",
    "optimizer.betas": "beta1 beta2 adam_beta1 adam_beta2 b1",
    "optimizer.eps": "epsilon adam_epsilon",
    "optimizer.nesterov": "use_nesterov nesterov_momentum",
    "optimizer.refresh_interval": "update_freq update_frequency precond_freq preconditioner_update_freq refresh_freq "
    "precondition_frequency update_interval preconditioning_compute_steps",
    "optimizer.block_size": "max_preconditioner_dim max_precond_dim",
    "optimizer": "optim opt optimiser",
    "batch_size": "bs batchsize batch mini_batch_size minibatch_size minibatch train_batch_size batch_size_train "
    "per_device_train_batch_size global_batch_size",
    "epochs": "epoch num_epochs n_epochs nepochs max_epochs train_epochs num_train_epochs total_epochs",
    "steps": "max_steps num_steps n_steps total_steps train_steps iterations iters max_iter max_iters num_iterations",
    "seed": "random_seed manual_seed random_state",
    "task.data": "dataset data_set datamodule",
    "task.data.name": "dataset_name",
    "task.data.root": "path data_path data_dir datadir dataset_path data_root dataset_dir directory root",
    "task.data.workers": "num_workers n_workers dataloader_num_workers",
    "task.data.validation": "val val_split validation_split valid_split val_fraction val_size split",
    "task.data.augment": "augmentation augmentations transform transforms",
    "task.model": "arch architecture net network backbone",
    "task.model.name": "model_name",
    "task.model.args.num_classes": "num_classes n_classes classes",
    "schedule": "lr_scheduler scheduler lr_schedule lr_policy sched",
    "schedule.warmup": "warm_up lr_warmup",
    "schedule.warmup.epochs": "warmup_epochs lr_warmup_epochs",
    "schedule.warmup.steps": "warmup_steps warmup_iters num_warmup_steps warmup_iterations",
    "schedule.warmup.start_factor": "warmup_factor lr_warmup_decay warmup_start_factor",
    "schedule.min_lr": "eta_min lr_min min_learning_rate",
    "schedule.gamma": "lr_gamma lr_decay decay_rate",
    "schedule.step_size": "lr_step_size decay_epochs",
    "name": "type class",
}  # fmt: skip
_SENTENCES: Final = {
    "write precision: bf16, fp16, tf32 or fp32, at the top level": "amp fp16 bf16 mixed_precision autocast half dtype "
    "use_amp tf32",
    "a recipe does not name the device; use the command's --device": "device gpu gpus cuda accelerator",
    "cosine always spans the whole run; its length is the recipe's epochs or steps": "t_max tmax",
    "this version does not clip gradients": "grad_clip clip_grad_norm max_grad_norm gradient_clip_val clip_norm clip",
    "the task defines the loss": "loss criterion loss_fn",
    "a recipe does not name the run directory; use the command's --out": "output output_dir out_dir save_dir log_dir",
}
RECIPE_WORDS: Final = Vocabulary(
    paths={word: path for path, words in _PATHS.items() for word in words.split()},
    sentences={word: sentence for sentence, words in _SENTENCES.items() for word in words.split()},
)
