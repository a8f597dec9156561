// Values that change places. Tensors are act [batch, time, height, width, channel]; one thread a
// value of the output, so that writes lie side by side.
struct Spread {
    u32 time, height, width, channels;              // of the input
    u32 out_time, out_height, out_width, out_channels;
    u32 st, sh, sw, add;
};

DEVICE u64 value_index() { return (u64)blockIdx.x * 256 + threadIdx.x; }

KERNEL(256)
depth_to_space(const act* __restrict__ x, act* __restrict__ out, Spread s, u64 count) {
    const u64 e = value_index();
    if (e >= count) return;
    const u32 positions = s.st * s.sh * s.sw, depth = s.channels / positions;
    const u32 channel = (u32)(e % s.out_channels) % depth;
    u64 rest = e / s.out_channels;
    const u32 z = (u32)(rest % s.out_width), y = (u32)(rest / s.out_width % s.out_height);
    rest = rest / s.out_width / s.out_height;
    // A clip's beginning leaves out its first st - 1 frames.
    const u32 t = (u32)(rest % s.out_time) + s.time * s.st - s.out_time, batch = (u32)(rest / s.out_time);
    const u32 position = (t % s.st * s.sh + y % s.sh) * s.sw + z % s.sw;
    const u64 pixel = (((u64)batch * s.time + t / s.st) * s.height + y / s.sh) * s.width + z / s.sw;
    const float value = to_float(x[pixel * s.channels + channel * positions + position]);
    put(out + e, s.add ? to_float(out[e]) + value : value);
}

// The same for depths in steps of eight: a thread takes eight channels of all POSITIONS that an input pixel
// becomes, which lie side by side, and writes eight channels to each. `count`: input pixels x out_channels / 8.
template <u32 POSITIONS>
DEVICE void spread_pixel(const act* x, act* out, const Spread& s, u64 e) {
    const u32 groups = s.out_channels / 8, depth = s.channels / POSITIONS, first = (u32)(e % groups) * 8;
    const u64 pixel = e / groups;
    float in[POSITIONS][8];
    UNROLL for (u32 i = 0; i < POSITIONS; i++) load8(x + pixel * s.channels + first % depth * POSITIONS + 8 * i, in[i]);
    const u32 z = (u32)(pixel % s.width) * s.sw, y = (u32)(pixel / s.width % s.height) * s.sh;
    const u64 frame = pixel / s.width / s.height;
    const u32 dropped = s.time * s.st - s.out_time, batch = (u32)(frame / s.time), t = (u32)(frame % s.time) * s.st;
    UNROLL for (u32 p = 0; p < POSITIONS; p++) {
        const u32 a = p / (s.sh * s.sw), b = p / s.sw % s.sh, c = p % s.sw;
        if (t + a < dropped) continue;
        const u64 row = ((u64)batch * s.out_time + (t + a - dropped)) * s.out_height + y + b;
        act* const to = out + (row * s.out_width + z + c) * s.out_channels + first;
        float v[8], old[8];
        UNROLL for (u32 j = 0; j < 8; j++) v[j] = in[(j * POSITIONS + p) / 8][(j * POSITIONS + p) % 8];
        if (s.add) {
            load8(to, old);
            UNROLL for (u32 j = 0; j < 8; j++) v[j] += old[j];
        }
        store8(to, v);
    }
}
KERNEL(256)
depth_to_space_by8(const act* __restrict__ x, act* __restrict__ out, Spread s, u64 count) {
    const u64 e = value_index();
    if (e >= count) return;
    switch (s.st * s.sh * s.sw) {
        case 1: return spread_pixel<1>(x, out, s, e);
        case 2: return spread_pixel<2>(x, out, s, e);
        case 4: return spread_pixel<4>(x, out, s, e);
        default: return spread_pixel<8>(x, out, s, e);
    }
}

KERNEL(256)
space_to_depth(const act* __restrict__ x, act* __restrict__ out, Spread s, u64 count) {
    const u64 e = value_index();
    if (e >= count) return;
    const u32 positions = s.st * s.sh * s.sw, group = s.channels * positions / s.out_channels;
    const u32 first = (u32)(e % s.out_channels) * group;
    u64 rest = e / s.out_channels;
    const u32 z = (u32)(rest % s.out_width), y = (u32)(rest / s.out_width % s.out_height);
    rest = rest / s.out_width / s.out_height;
    const u32 frame = (u32)(rest % s.out_time) * s.st, batch = (u32)(rest / s.out_time);
    float sum = 0.f;
    for (u32 member = first; member < first + group; member++) {
        const u32 c = member / positions, position = member % positions;
        const u32 a = position / (s.sh * s.sw), i = position / s.sw % s.sh, j = position % s.sw;
        const u32 t = frame + a < s.st - 1 ? frame + a : frame + a - (s.st - 1);
        const u64 pixel = (((u64)batch * s.time + t) * s.height + y * s.sh + i) * s.width + z * s.sw + j;
        sum += to_float(x[pixel * s.channels + c]);
    }
    const float mean = sum / group;
    put(out + e, s.add ? to_float(out[e]) + mean : mean);
}

// Squares of `patch` x `patch` pixels become channels: columns of the square before its rows.
// width and channels are those of the patches, channels = colours * patch^2.
KERNEL(256)
patchify(const act* __restrict__ x, act* __restrict__ out, u32 width, u32 channels, u32 patch, u64 count) {
    const u64 e = value_index();
    if (e >= count) return;
    const u32 area = patch * patch, channel = (u32)(e % channels);
    const u32 c = channel / area, j = channel % area / patch, i = channel % patch;
    const u64 position = e / channels, row = position / width, column = position % width;
    put(out + e, to_float(x[((row * patch + i) * (u64)width * patch + column * patch + j) * (channels / area) + c]));
}

// The way back; width and channels as above, the output has width * patch pixels a row.
KERNEL(256)
unpatchify(const act* __restrict__ x, act* __restrict__ out, u32 width, u32 channels, u32 patch, u64 count) {
    const u64 e = value_index();
    if (e >= count) return;
    const u32 area = patch * patch, colours = channels / area, c = (u32)(e % colours);
    const u64 pixel = e / colours, row = pixel / ((u64)width * patch), column = pixel % ((u64)width * patch);
    const u64 source = (row / patch * width + column / patch) * channels;
    put(out + e, to_float(x[source + c * area + column % patch * patch + row % patch]));
}

// Every pixel becomes a square of two by two. width is the input's.
KERNEL(256)
upsample_nearest(const act* __restrict__ x, act* __restrict__ out, u32 width, u32 channels, u64 count) {
    const u64 e = value_index();
    if (e >= count) return;
    const u64 pixel = e / channels, row = pixel / (2 * width), column = pixel % (2 * width);
    put(out + e, to_float(x[(row / 2 * width + column / 2) * channels + e % channels]));
}

// A picture with `border` mirrored pixels around: what TMA cannot read from the picture itself. One thread
// eight channels; height, width and channels are the input's, channels a multiple of eight.
KERNEL(256)
mirror_border(const act* __restrict__ x, act* __restrict__ out, u32 height, u32 width, u32 channels, u32 rows, u32 columns, u64 count) {
    const u64 e = value_index();
    if (e >= count) return;
    const u32 groups = channels / 8, wide = width + 2 * columns, tall = height + 2 * rows;
    const u64 pixel = e / groups, frame = pixel / wide / tall;
    const int z = (int)(pixel % wide) - (int)columns, y = (int)(pixel / wide % tall) - (int)rows;
    const u32 from_z = z < 0 ? -z : z >= (int)width ? 2 * ((int)width - 1) - z : z;
    const u32 from_y = y < 0 ? -y : y >= (int)height ? 2 * ((int)height - 1) - y : y;
    float v[8];
    load8(x + ((frame * height + from_y) * width + from_z) * channels + e % groups * 8, v);
    store8(out + e * 8, v);
}
