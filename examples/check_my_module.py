"""Is my patch embedding right? One module of torch that is, and one that forgets the transpose."""

import torch

import patchparity


class PatchEmbed(torch.nn.Module):
    """Images `(B, 3, H, W)` to tokens `(B, N, 192)`."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Conv2d(3, 192, kernel_size=16, stride=16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Flatten the grid, then bring the width to the end."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Reshaped(PatchEmbed):
    """The same with a reshape where the transpose belongs."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Keep the order of the memory, which is wrong."""
        grid = self.proj(images)
        return grid.reshape(len(grid), -1, grid.shape[1])


if __name__ == "__main__":
    print(patchparity.check(PatchEmbed()))
    print()
    wrong = patchparity.check(Reshaped())
    print(wrong)
    print("\nin one sentence:", wrong.diagnosis)
