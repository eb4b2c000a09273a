"""What each ingredient of mip-NeRF 360 is worth: one variable at a time, the same network, steps and schedule.

python benchmarks/mip.py [--seeds 3] [--only NAME...] [--lanes 1] [--name NAME] [FLAGS...]

Runs every experiment below that has not finished yet, in logs/mip, and collects them in docs/results/mip.json, as
benchmarks/experiments.py does. Lego at 100x100 and at four scales; the fox (give FLAGS for neither: each has its own
data, in data/nerf_synthetic/lego and data/fox).
"""

from experiments import Experiment, main

# Fewer steps than the configs, so that one seed of all takes half an hour on two cores.
SHORT = (
    "--N_iters", "2000", "--lrate_decay", "1.2", "--i_img", "0", "--path_frames", "2", "--render_factor", "8",
    "--testskip", "16",
)  # fmt: skip
PROPOSAL = ("--sampler", "proposal", "--proposal_bins", "48", "--final_bins", "24", "--N_rand", "341")
PLAIN = ("--field", "nerf")
TWO = ("--proposal_bins", "32", "32")


def lego(*flags: str) -> Experiment:
    return Experiment("lego_mip_cpu", flags=(*SHORT, *flags))


def scales(*flags: str) -> Experiment:
    return Experiment("lego_mip_scales_cpu", flags=(*SHORT, *flags))


def fox(*flags: str) -> Experiment:
    return Experiment("fox_mip_cpu", flags=(*SHORT, "--mip_directions", "3", *flags))


EXPERIMENTS = {
    # Positions or cones, and from where along a ray they come.
    "lego_plain": lego(*PLAIN),
    "lego_mip": lego(),
    "lego_mip_21": lego("--mip_directions", "21"),
    "lego_hull": lego(*PROPOSAL),
    "lego_near_far": lego(*PROPOSAL, "--no_hull"),
    "lego_two_proposals": lego(*PROPOSAL, *TWO),
    # At four scales; with samples of one length at all of them.
    "scales_plain": scales(*PLAIN),
    "scales_mip": scales(),
    "scales_plain_fixed": scales(*PLAIN, "--cone_steps", "0"),
    "scales_mip_fixed": scales("--cone_steps", "0"),
    # A capture with a background.
    "fox": fox(),
    "fox_box": fox("--contract", "off", "--ray_warp", "reciprocal"),
    "fox_9": fox("--mip_directions", "9"),
    "fox_21": fox("--mip_directions", "21"),
    "fox_two_proposals": fox(*TWO),
    "fox_no_distortion": fox("--distortion_weight", "0"),
    "fox_no_dilation": fox("--no_dilation"),
}

if __name__ == "__main__":
    main(EXPERIMENTS, "mip", __doc__, frames=False)
