// CPU kernels for training; kernels.py says what each is for.
#include <torch/extension.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// bfloat16 in memory, float in arithmetic; no special case for NaN, so that loops turn into vectors
struct Half {
  uint16_t bits;
  Half() = default;
  explicit Half(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    bits = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  }
  explicit operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
};

template <typename T>
static T* raw(const torch::Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// xp (N, C, D+6, H+6, W+6) padded, g (N, C, D, H, W), both contiguous float -> (C, 1, 7, 7, 7)
torch::Tensor depthwise_gw(torch::Tensor xp, torch::Tensor g) {
  const long N = g.size(0), C = g.size(1), D = g.size(2), H = g.size(3), W = g.size(4);
  const long DP = D + 6, HP = H + 6, WP = W + 6;
  auto out = torch::zeros({C, 1, 7, 7, 7}, g.options());
  const float *X = xp.data_ptr<float>(), *G = g.data_ptr<float>();
  float* O = out.data_ptr<float>();
#pragma omp parallel for schedule(dynamic)
  for (long ck = 0; ck < C * 7; ck++) {
    const long c = ck / 7, kd = ck % 7;
    float acc[49][16] = {};
    for (long n = 0; n < N; n++)
      for (long d = 0; d < D; d++) {
        const float* xc = X + ((n * C + c) * DP + d + kd) * HP * WP;
        const float* gc = G + ((n * C + c) * D + d) * H * W;
        for (int kh = 0; kh < 7; kh++) {
          float a0[16] = {}, a1[16] = {}, a2[16] = {}, a3[16] = {}, a4[16] = {}, a5[16] = {}, a6[16] = {};
          for (long h = 0; h < H; h++) {
            const float *x = xc + (h + kh) * WP, *g = gc + h * W;
            long w = 0;
            for (; w + 16 <= W; w += 16)
              for (int j = 0; j < 16; j++) {
                const float v = g[w + j], *p = x + w + j;
                a0[j] += v * p[0], a1[j] += v * p[1], a2[j] += v * p[2], a3[j] += v * p[3];
                a4[j] += v * p[4], a5[j] += v * p[5], a6[j] += v * p[6];
              }
            if (w < W) {
              const int rest = W - w;
              for (int j = 0; j < rest; j++) {
                const float v = g[w + j], *p = x + w + j;
                a0[j] += v * p[0], a1[j] += v * p[1], a2[j] += v * p[2], a3[j] += v * p[3];
                a4[j] += v * p[4], a5[j] += v * p[5], a6[j] += v * p[6];
              }
            }
          }
          const float* all[7] = {a0, a1, a2, a3, a4, a5, a6};
          for (int k = 0; k < 7; k++)
            for (int j = 0; j < 16; j++) acc[kh * 7 + k][j] += all[k][j];
        }
      }
    for (int t = 0; t < 49; t++) {
      float s = 0;
      for (int j = 0; j < 16; j++) s += acc[t][j];
      O[c * 343 + kd * 49 + t] = s;
    }
  }
  return out;
}

// logits (V, K) float or bfloat16 with contiguous rows, target (V) int64, weight (K)
// -> loss, gradient of the loss by the logits (V, K), Dice by channel (K), voxels by channel (K)
template <typename T>
std::vector<torch::Tensor> loss_typed(torch::Tensor logits, torch::Tensor target, torch::Tensor weight) {
  const long V = logits.size(0), K = logits.size(1);
  const T* L = raw<T>(logits);
  const long* Y = target.data_ptr<long>();
  const float* Wt = weight.data_ptr<float>();
  auto prob = torch::empty({V, K}, logits.options());
  auto dice = torch::empty({K}, weight.options()), seen = torch::zeros({K}, weight.options());
  T* P = raw<T>(prob);
  std::vector<double> guess(K, 0), both(K, 0), truth(K, 0);
  double ce = 0, norm = 0;
#pragma omp parallel
  {
    std::vector<float> e(K), tg(K, 0), tb(K, 0), tt(K, 0);
    double tce = 0, tnorm = 0;
#pragma omp for schedule(static)
    for (long v = 0; v < V; v++) {
      const T* l = L + v * K;
      float top = -1e30f, sum = 0;
      for (long k = 0; k < K; k++) e[k] = static_cast<float>(l[k]), top = std::max(top, e[k]);
      const long y = Y[v];
      const float raw = e[y] - top;
      for (long k = 0; k < K; k++) e[k] = expf(e[k] - top), sum += e[k];
      const float inv = 1 / sum;
      for (long k = 0; k < K; k++) tg[k] += e[k] * inv, P[v * K + k] = static_cast<T>(e[k] * inv);
      tb[y] += e[y] * inv, tt[y] += 1;
      tce += Wt[y] * (logf(sum) - raw), tnorm += Wt[y];
      if ((v & 4095) == 4095) {  // float sums stay short
#pragma omp critical
        for (long k = 0; k < K; k++) guess[k] += tg[k], both[k] += tb[k], truth[k] += tt[k], tg[k] = tb[k] = tt[k] = 0;
      }
    }
#pragma omp critical
    {
      for (long k = 0; k < K; k++) guess[k] += tg[k], both[k] += tb[k], truth[k] += tt[k];
      ce += tce, norm += tnorm;
    }
  }
  double mean = 0;
  long here = 0;
  std::vector<float> a(K, 0), b(K, 0);  // gradient of (1 - mean Dice) by p: a for every voxel, b more where it is the truth
  for (long k = 0; k < K; k++) here += truth[k] > 0;
  for (long k = 0; k < K; k++) {
    const double d = (2 * both[k] + 1) / (truth[k] + guess[k] + 1);
    dice.data_ptr<float>()[k] = d, seen.data_ptr<float>()[k] = truth[k];
    if (truth[k] == 0) continue;
    mean += d / here;
    a[k] = d / (truth[k] + guess[k] + 1) / here;
    b[k] = -2 / (truth[k] + guess[k] + 1) / here;
  }
#pragma omp parallel
  {
    std::vector<float> p(K);
#pragma omp for schedule(static)
    for (long v = 0; v < V; v++) {
      T* row = P + v * K;
      const long y = Y[v];
      float dot = 0;
      for (long k = 0; k < K; k++) p[k] = static_cast<float>(row[k]), dot += p[k] * a[k];
      dot += p[y] * b[y];
      const float w = Wt[y] / norm, by = p[y] * b[y];
      for (long k = 0; k < K; k++) p[k] *= w + a[k] - dot;
      p[y] += by - w;
      for (long k = 0; k < K; k++) row[k] = static_cast<T>(p[k]);
    }
  }
  return {torch::scalar_tensor(ce / norm + 1 - mean, weight.options()), prob, dice, seen};
}

std::vector<torch::Tensor> loss(torch::Tensor logits, torch::Tensor target, torch::Tensor weight) {
  if (logits.scalar_type() == torch::kBFloat16) return loss_typed<Half>(logits, target, weight);
  return loss_typed<float>(logits, target, weight);
}


// P at the corners of the cell of a point between voxels: weights and offsets, and the mixture of a point's corners
struct Cells {
  long H, W, K, offset[8];
  float share[8];
  Cells(long H, long W, long K, const float* shift) : H(H), W(W), K(K) {
    for (int i = 0; i < 8; i++) {
      const int a = i >> 2, b = i >> 1 & 1, c = i & 1;
      offset[i] = ((a * H + b) * W + c) * K;
      share[i] = (a ? shift[0] : 1 - shift[0]) * (b ? shift[1] : 1 - shift[1]) * (c ? shift[2] : 1 - shift[2]);
    }
  }
  void mix(const float* p, float* q) const {
    const float *p0 = p + offset[0], *p1 = p + offset[1], *p2 = p + offset[2], *p3 = p + offset[3];
    const float *p4 = p + offset[4], *p5 = p + offset[5], *p6 = p + offset[6], *p7 = p + offset[7];
    for (long k = 0; k < K; k++)
      q[k] = share[0] * p0[k] + share[1] * p1[k] + share[2] * p2[k] + share[3] * p3[k] + share[4] * p4[k] + share[5] * p5[k] +
             share[6] * p6[k] + share[7] * p7[k];
  }
  void spread(const float* d, float* g) const {
    for (int i = 0; i < 8; i++) {
      float* gi = g + offset[i];
      const float s = share[i];
      for (long k = 0; k < K; k++) gi[k] += s * d[k];
    }
  }
};

// Loss of probabilities brought to points between the voxels, as a scan's voxels lie between the model's.
// logits (D, H, W, K) float, target (D-1, H-1, W-1) int64, shift (3) from each voxel to its point, 0..1, weight (K)
// -> cross-entropy + 1 - mean Dice of the sharpened mixture (its third power), gradient by the logits, Dice, voxels
std::vector<torch::Tensor> loss_between(torch::Tensor logits, torch::Tensor target, torch::Tensor shift, torch::Tensor weight) {
  const long D = logits.size(0), H = logits.size(1), W = logits.size(2), K = logits.size(3), V = D * H * W;
  const float *L = raw<float>(logits), *Wt = raw<float>(weight);
  const long* Y = target.data_ptr<long>();
  const Cells cells(H, W, K, raw<float>(shift));
  auto prob = torch::empty_like(logits), grad = torch::zeros_like(logits);
  auto dice = torch::empty({K}, weight.options()), seen = torch::zeros({K}, weight.options());
  float *P = raw<float>(prob), *G = raw<float>(grad);
#pragma omp parallel for schedule(static)
  for (long v = 0; v < V; v++) {
    const float* l = L + v * K;
    float *p = P + v * K, top = -1e30f, sum = 0;
    for (long k = 0; k < K; k++) top = std::max(top, l[k]);
    for (long k = 0; k < K; k++) p[k] = expf(l[k] - top), sum += p[k];
    const float inv = 1 / sum;
    for (long k = 0; k < K; k++) p[k] *= inv;
  }
  std::vector<double> guess(K, 0), both(K, 0), truth(K, 0);
  double ce = 0, norm = 0;
#pragma omp parallel
  {
    std::vector<float> q(K), tg(K, 0);
    std::vector<double> dg(K, 0), db(K, 0), dt(K, 0);
    double tce = 0, tnorm = 0;
#pragma omp for schedule(static)
    for (long d = 0; d < D - 1; d++)
      for (long h = 0; h < H - 1; h++) {
        for (long w = 0; w < W - 1; w++) {
          cells.mix(P + ((d * H + h) * W + w) * K, q.data());
          const long y = Y[(d * (H - 1) + h) * (W - 1) + w];
          tce -= Wt[y] * logf(q[y] + 1e-6f), tnorm += Wt[y];
          float sum = 0;
          for (long k = 0; k < K; k++) q[k] = q[k] * q[k] * q[k], sum += q[k];
          const float inv = 1 / sum;
          for (long k = 0; k < K; k++) tg[k] += q[k] * inv;
          db[y] += q[y] * inv, dt[y] += 1;
        }
        for (long k = 0; k < K; k++) dg[k] += tg[k], tg[k] = 0;
      }
#pragma omp critical
    {
      for (long k = 0; k < K; k++) guess[k] += dg[k], both[k] += db[k], truth[k] += dt[k];
      ce += tce, norm += tnorm;
    }
  }
  double mean = 0;
  long here = 0;
  std::vector<float> a(K, 0), b(K, 0);
  for (long k = 0; k < K; k++) here += truth[k] > 0;
  for (long k = 0; k < K; k++) {
    const double d = (2 * both[k] + 1) / (truth[k] + guess[k] + 1);
    raw<float>(dice)[k] = d, raw<float>(seen)[k] = truth[k];
    if (truth[k] == 0) continue;
    mean += d / here;
    a[k] = d / (truth[k] + guess[k] + 1) / here;
    b[k] = -2 / (truth[k] + guess[k] + 1) / here;
  }
  for (long parity = 0; parity < 2; parity++) {  // neighbouring slabs share corners
#pragma omp parallel
    {
      std::vector<float> q(K), s(K), e(K);
#pragma omp for schedule(static)
      for (long d = parity; d < D - 1; d += 2)
        for (long h = 0; h < H - 1; h++)
          for (long w = 0; w < W - 1; w++) {
            const long at = ((d * H + h) * W + w) * K, y = Y[(d * (H - 1) + h) * (W - 1) + w];
            cells.mix(P + at, q.data());
            float sum = 0, dot = 0;
            for (long k = 0; k < K; k++) s[k] = q[k] * q[k] * q[k], sum += s[k], dot += s[k] * a[k];
            const float inv = 1 / sum;
            dot = (dot + s[y] * b[y]) * inv;
            for (long k = 0; k < K; k++) e[k] = 3 * inv * q[k] * q[k] * (a[k] - dot);
            e[y] += 3 * inv * q[y] * q[y] * b[y] - Wt[y] / static_cast<float>(norm) / (q[y] + 1e-6f);
            cells.spread(e.data(), G + at);
          }
    }
  }
#pragma omp parallel for schedule(static)
  for (long v = 0; v < V; v++) {
    const float* p = P + v * K;
    float *g = G + v * K, dot = 0;
    for (long k = 0; k < K; k++) dot += p[k] * g[k];
    for (long k = 0; k < K; k++) g[k] = p[k] * (g[k] - dot);
  }
  return {torch::scalar_tensor(ce / norm + 1 - mean, weight.options()), grad, dice, seen};
}

// ---- instance normalisation of one item, channels last, with residual and leaky ReLU ----

// Few channels fill no vector of bfloat16: m neighbours are taken as one row of m C lanes.
static long neighbours(long V, long C) {
  long m = 1;
  while (C * m < 64 && V % (2 * m) == 0) m *= 2;
  return m;
}

static const long ROWS = 256;  // summed up in float before they go to a double

// x, r (V, C): y = leaky((x - mean) / dev + r); also mean and 1 / dev by channel
template <typename T>
std::vector<torch::Tensor> norm_typed(torch::Tensor x, c10::optional<torch::Tensor> r, double eps, float slope) {
  const long C = x.size(1), m = neighbours(x.size(0), C), L = C * m, V = x.size(0) / m, chunks = (V + ROWS - 1) / ROWS;
  const T* X = raw<T>(x);
  const T* R = r ? raw<T>(*r) : nullptr;
  auto y = torch::empty_like(x);
  T* Y = raw<T>(y);
  auto stats = torch::zeros({2, L}, torch::kFloat);
  float *mean = raw<float>(stats), *inv = mean + L;
  std::vector<double> sum(C, 0), square(C, 0);
#pragma omp parallel
  {
    std::vector<double> ts(C, 0), tq(C, 0);
    std::vector<float> s(L), q(L);
#pragma omp for schedule(dynamic, 8)
    for (long k = 0; k < chunks; k++) {
      std::fill(s.begin(), s.end(), 0.f), std::fill(q.begin(), q.end(), 0.f);
      for (long v = k * ROWS; v < std::min(V, (k + 1) * ROWS); v++)
        for (long c = 0; c < L; c++) {
          const float t = static_cast<float>(X[v * L + c]);
          s[c] += t, q[c] += t * t;
        }
      for (long c = 0; c < L; c++) ts[c % C] += s[c], tq[c % C] += q[c];
    }
#pragma omp critical
    for (long c = 0; c < C; c++) sum[c] += ts[c], square[c] += tq[c];
  }
  for (long c = 0; c < L; c++) {
    const double middle = sum[c % C] / (V * m);
    mean[c] = middle, inv[c] = 1 / std::sqrt(std::max(0.0, square[c % C] / (V * m) - middle * middle) + eps);
  }
#pragma omp parallel for schedule(dynamic, 64)
  for (long v = 0; v < V; v++) {
    const T* xv = X + v * L;
    T* yv = Y + v * L;
    if (R) {
      const T* rv = R + v * L;
      for (long c = 0; c < L; c++) {
        const float t = (static_cast<float>(xv[c]) - mean[c]) * inv[c] + static_cast<float>(rv[c]);
        yv[c] = static_cast<T>(t > 0 ? t : slope * t);
      }
    } else {
      for (long c = 0; c < L; c++) {
        const float t = (static_cast<float>(xv[c]) - mean[c]) * inv[c];
        yv[c] = static_cast<T>(t > 0 ? t : slope * t);
      }
    }
  }
  return {y, stats};
}

// gradients by x and, when wanted, by r
template <typename T>
std::vector<torch::Tensor> norm_back_typed(torch::Tensor g, torch::Tensor x, torch::Tensor y, torch::Tensor stats, float slope, bool with_r) {
  const long C = x.size(1), m = neighbours(x.size(0), C), L = C * m, V = x.size(0) / m, chunks = (V + ROWS - 1) / ROWS;
  const T *G = raw<T>(g), *X = raw<T>(x), *Y = raw<T>(y);
  const float *mean = raw<float>(stats), *inv = mean + L;
  auto gx = torch::empty_like(x), gr = torch::empty_like(x);  // before the activation, then by x
  T *GX = raw<T>(gx), *GR = raw<T>(gr);
  std::vector<double> sum(C, 0), dot(C, 0);
#pragma omp parallel
  {
    std::vector<double> ts(C, 0), td(C, 0);
    std::vector<float> s(L), d(L);
#pragma omp for schedule(dynamic, 8)
    for (long k = 0; k < chunks; k++) {
      std::fill(s.begin(), s.end(), 0.f), std::fill(d.begin(), d.end(), 0.f);
      for (long v = k * ROWS; v < std::min(V, (k + 1) * ROWS); v++) {
        const T *gv = G + v * L, *xv = X + v * L, *yv = Y + v * L;
        T* rv = GR + v * L;
        for (long c = 0; c < L; c++) {
          const float t = static_cast<float>(gv[c]) * (static_cast<float>(yv[c]) > 0 ? 1.f : slope);
          s[c] += t, d[c] += t * (static_cast<float>(xv[c]) - mean[c]);
          rv[c] = static_cast<T>(t);
        }
      }
      for (long c = 0; c < L; c++) ts[c % C] += s[c], td[c % C] += d[c];
    }
#pragma omp critical
    for (long c = 0; c < C; c++) sum[c] += ts[c], dot[c] += td[c];
  }
  std::vector<float> a(L), b(L);
  for (long c = 0; c < L; c++) a[c] = sum[c % C] / (V * m), b[c] = dot[c % C] / (V * m) * inv[c] * inv[c];
#pragma omp parallel for schedule(dynamic, 64)
  for (long v = 0; v < V; v++) {
    const T *rv = GR + v * L, *xv = X + v * L;
    T* gv = GX + v * L;
    for (long c = 0; c < L; c++)
      gv[c] = static_cast<T>(inv[c] * (static_cast<float>(rv[c]) - a[c] - (static_cast<float>(xv[c]) - mean[c]) * b[c]));
  }
  return {gx, gr};
}

std::vector<torch::Tensor> norm(torch::Tensor x, c10::optional<torch::Tensor> r, double eps, double slope) {
  if (x.scalar_type() == torch::kBFloat16) return norm_typed<Half>(x, r, eps, slope);
  return norm_typed<float>(x, r, eps, slope);
}
std::vector<torch::Tensor> norm_back(torch::Tensor g, torch::Tensor x, torch::Tensor y, torch::Tensor stats, double slope, bool with_r) {
  if (x.scalar_type() == torch::kBFloat16) return norm_back_typed<Half>(g, x, y, stats, slope, with_r);
  return norm_back_typed<float>(g, x, y, stats, slope, with_r);
}

// ---- channel norm, four GELUs a channel, scale, residual: what follows the depth-wise convolution ----

// Phi(u), the normal distribution, and e = exp(-u u / 2); Abramowitz and Stegun 7.1.26, good to 1e-7
static inline float normal(float u, float& e) {
  const float z = std::fabs(u) * 0.70710678f, t = 1 / (1 + 0.3275911f * z);
  e = expf(-z * z);
  const float tail = 0.5f * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f)))) * e;
  return u > 0 ? 1 - tail : tail;
}

// x, y (V, C); p (16, C): norm's weight and bias, then w1, b1, w2 four times each, b2, gamma -> x + gamma mlp(norm(y)), (V, 2)
template <typename T>
std::vector<torch::Tensor> mlp_typed(torch::Tensor x, torch::Tensor y, torch::Tensor p, float eps) {
  const long V = x.size(0), C = x.size(1);
  const float *X = raw<float>(x), *P = raw<float>(p);
  const T* Y = raw<T>(y);
  auto out = torch::empty_like(x), stats = torch::empty({V, 2}, x.options());
  float *O = raw<float>(out), *S = raw<float>(stats);
#pragma omp parallel for schedule(dynamic, 64)
  for (long v = 0; v < V; v++) {
    float mean = 0, var = 0;
#pragma omp simd simdlen(16) reduction(+ : mean)
    for (long c = 0; c < C; c++) mean += static_cast<float>(Y[v * C + c]);
    mean /= C;
#pragma omp simd simdlen(16) reduction(+ : var)
    for (long c = 0; c < C; c++) {
      const float d = static_cast<float>(Y[v * C + c]) - mean;
      var += d * d;
    }
    const float inv = 1 / std::sqrt(var / C + eps);
    S[2 * v] = mean, S[2 * v + 1] = inv;
#pragma omp simd simdlen(16)
    for (long c = 0; c < C; c++) {
      const float n = (static_cast<float>(Y[v * C + c]) - mean) * inv * P[c] + P[C + c];
      float z = P[14 * C + c], e;
      for (int k = 0; k < 4; k++) {
        const float u = n * P[(2 + k) * C + c] + P[(6 + k) * C + c];
        z += P[(10 + k) * C + c] * u * normal(u, e);
      }
      O[v * C + c] = X[v * C + c] + P[15 * C + c] * z;
    }
  }
  return {out, stats};
}

// gradients by y (V, C) and p (16, C); that by x is g itself
template <typename T>
std::vector<torch::Tensor> mlp_back_typed(torch::Tensor g, torch::Tensor y, torch::Tensor p, torch::Tensor stats) {
  const long V = y.size(0), C = y.size(1), chunk = 256, chunks = (V + chunk - 1) / chunk;
  const float *G = raw<float>(g), *P = raw<float>(p), *S = raw<float>(stats);
  const T* Y = raw<T>(y);
  auto gy = torch::empty_like(y), gp = torch::zeros({16, C}, torch::kFloat);
  T* GY = raw<T>(gy);
  float* GP = raw<float>(gp);
#pragma omp parallel
  {
    std::vector<float> part(16 * C), dh(C), hat(C);
#pragma omp for schedule(dynamic)
    for (long k0 = 0; k0 < chunks; k0++) {
      std::fill(part.begin(), part.end(), 0.f);
      float* A = part.data();
      for (long v = k0 * chunk; v < std::min(V, (k0 + 1) * chunk); v++) {
        const float mean = S[2 * v], inv = S[2 * v + 1];
        float sum = 0, dot = 0;
        float *D = dh.data(), *H = hat.data();
#pragma omp simd simdlen(16) reduction(+ : sum, dot)
        for (long c = 0; c < C; c++) {
          const float h = (static_cast<float>(Y[v * C + c]) - mean) * inv, n = h * P[c] + P[C + c];
          const float go = G[v * C + c], gz = go * P[15 * C + c];
          float z = P[14 * C + c], dn = 0, e;
          for (int k = 0; k < 4; k++) {
            const float w1 = P[(2 + k) * C + c], w2 = P[(10 + k) * C + c], u = n * w1 + P[(6 + k) * C + c];
            const float phi = normal(u, e), a = u * phi, du = gz * w2 * (phi + u * 0.39894228f * e);
            z += w2 * a;
            A[(2 + k) * C + c] += du * n, A[(6 + k) * C + c] += du, A[(10 + k) * C + c] += gz * a;
            dn += du * w1;
          }
          A[14 * C + c] += gz, A[15 * C + c] += go * z;
          A[c] += dn * h, A[C + c] += dn;
          const float d = dn * P[c];
          D[c] = d, H[c] = h;
          sum += d, dot += d * h;
        }
        sum /= C, dot /= C;
#pragma omp simd simdlen(16)
        for (long c = 0; c < C; c++) GY[v * C + c] = static_cast<T>(inv * (D[c] - sum - H[c] * dot));
      }
#pragma omp critical
      for (long i = 0; i < 16 * C; i++) GP[i] += A[i];
    }
  }
  return {gy, gp};
}

std::vector<torch::Tensor> mlp(torch::Tensor x, torch::Tensor y, torch::Tensor p, double eps) {
  if (y.scalar_type() == torch::kBFloat16) return mlp_typed<Half>(x, y, p, eps);
  return mlp_typed<float>(x, y, p, eps);
}
std::vector<torch::Tensor> mlp_back(torch::Tensor g, torch::Tensor y, torch::Tensor p, torch::Tensor stats) {
  if (y.scalar_type() == torch::kBFloat16) return mlp_back_typed<Half>(g, y, p, stats);
  return mlp_back_typed<float>(g, y, p, stats);
}

#include <immintrin.h>

#if defined(__AVX2__) && defined(__FMA__)
// Weight gradient of a 3x3x3 convolution in float: x (D, H, W, Ci), g (D, H, W, Co), channels in sixteens -> (Co, Ci, 3, 3, 3)
torch::Tensor conv3_gw_float(torch::Tensor x, torch::Tensor g) {
  const long D = x.size(0), H = x.size(1), W = x.size(2), Ci = x.size(3), Co = g.size(3);
  auto out = torch::zeros({Co, Ci, 27}, torch::kFloat);
  const float *X = raw<float>(x), *G = raw<float>(g);
  float* O = raw<float>(out);
  const long nb = (Ci / 16) * (Co / 16), step = std::max(1L, D * nb / 16), parts = (D + step - 1) / step;
#pragma omp parallel
  {
    std::vector<float> acc(27 * 256);
#pragma omp for schedule(dynamic)
    for (long task = 0; task < nb * parts; task++) {
      const long bi = task / parts % (Ci / 16), bo = task / parts / (Ci / 16), d0 = task % parts * step;
      std::fill(acc.begin(), acc.end(), 0.f);
      for (long d = d0; d < std::min(D, d0 + step); d++)
        for (long h = 0; h < H; h++)
          for (int tap = 0; tap < 27; tap++) {
            const long kd = d + tap / 9 - 1, kh = h + tap / 3 % 3 - 1, kw = tap % 3 - 1;
            if (kd < 0 || kd >= D || kh < 0 || kh >= H) continue;
            const long first = std::max(0L, -kw), last = std::min(W, W - kw);
            const float* px = X + ((kd * H + kh) * W + kw) * Ci + bi * 16;
            const float* pg = G + (d * H + h) * W * Co + bo * 16;
            for (int o = 0; o < 16; o += 4) {
              float* a = acc.data() + tap * 256 + o * 16;
              __m256 s[8];
#pragma GCC unroll 8
              for (int i = 0; i < 8; i++) s[i] = _mm256_loadu_ps(a + i * 8);
              for (long w = first; w < last; w++) {
                const __m256 low = _mm256_loadu_ps(px + w * Ci), high = _mm256_loadu_ps(px + w * Ci + 8);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                  const __m256 v = _mm256_broadcast_ss(pg + w * Co + o + i);
                  s[2 * i] = _mm256_fmadd_ps(low, v, s[2 * i]), s[2 * i + 1] = _mm256_fmadd_ps(high, v, s[2 * i + 1]);
                }
              }
#pragma GCC unroll 8
              for (int i = 0; i < 8; i++) _mm256_storeu_ps(a + i * 8, s[i]);
            }
          }
#pragma omp critical
      for (int tap = 0; tap < 27; tap++)
        for (int o = 0; o < 16; o++)
          for (int i = 0; i < 16; i++) O[((bo * 16 + o) * Ci + bi * 16 + i) * 27 + tap] += acc[tap * 256 + o * 16 + i];
    }
  }
  return out.view({Co, Ci, 3, 3, 3});
}
#endif

#ifdef __AVX512BF16__

// (D, H, W, C) bfloat16 -> (C / 16, D, H, J, 16, 2): pairs of neighbours along W; pair j starts at voxel 2 j - odd
static void pack(const uint16_t* x, uint16_t* p, long rows, long W, long C, long J, int odd) {
#pragma omp parallel for schedule(dynamic, 16)
  for (long r = 0; r < rows; r++)
    for (long b = 0; b < C / 16; b++)
      for (long j = 0; j < J; j++) {
        const long u = 2 * j - odd, v = u + 1;
        const auto at = [&](long w) {
          return w < 0 || w >= W ? _mm512_setzero_si512() : _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + (r * W + w) * C + b * 16)));
        };
        _mm512_storeu_si512(p + ((b * rows + r) * J + j) * 32, _mm512_or_si512(at(u), _mm512_slli_epi32(at(v), 16)));
      }
}

// Weight gradient of a 3x3x3 convolution: x (D, H, W, Ci), g (D, H, W, Co) bfloat16, W even -> (Co, Ci, 3, 3, 3) float
torch::Tensor conv3_gw(torch::Tensor x, torch::Tensor g) {
  const long D = x.size(0), H = x.size(1), W = x.size(2), Ci = x.size(3), Co = g.size(3), J = W / 2 + 1, rows = D * H;
  auto options = x.options();
  auto even = torch::empty({Ci * rows * J * 2}, options), odd = torch::empty({Ci * rows * J * 2}, options), pg = torch::empty({Co * rows * W}, options);
  pack(raw<uint16_t>(x), raw<uint16_t>(even), rows, W, Ci, J, 0);
  pack(raw<uint16_t>(x), raw<uint16_t>(odd), rows, W, Ci, J, 1);
  pack(raw<uint16_t>(g), raw<uint16_t>(pg), rows, W, Co, W / 2, 0);
  auto out = torch::zeros({Co, Ci, 27}, torch::kFloat);
  float* O = out.data_ptr<float>();
  const long nb = (Ci / 16) * (Co / 16), step = std::max(1L, D * nb / 16), parts = (D + step - 1) / step, band = std::max(1L, 128 / W);
#pragma omp parallel
  {
    std::vector<float> acc(27 * 256);
#pragma omp for schedule(dynamic)
    for (long task = 0; task < nb * parts; task++) {
      const long bi = task / parts % (Ci / 16), bo = task / parts / (Ci / 16), d0 = task % parts * step;
      std::fill(acc.begin(), acc.end(), 0.f);
      for (long d = d0; d < std::min(D, d0 + step); d++)
        for (long h0 = 0; h0 < H; h0 += band)
          for (int tap = 0; tap < 27; tap++) {
            const long kd = tap / 9 - 1, kh = tap / 3 % 3 - 1, kw = tap % 3 - 1;
            if (d + kd < 0 || d + kd >= D) continue;
            __m512 s[16];
            float* a = acc.data() + tap * 256;
            for (int o = 0; o < 16; o++) s[o] = _mm512_loadu_ps(a + o * 16);
            for (long h = std::max(h0, -kh); h < std::min({H, h0 + band, H - kh}); h++) {
              const uint16_t* px = raw<uint16_t>(kw ? odd : even) + ((bi * rows + (d + kd) * H + h + kh) * J + (kw > 0)) * 32;
              const int* gp = reinterpret_cast<const int*>(raw<uint16_t>(pg) + (bo * rows + d * H + h) * (W / 2) * 32);
              for (long j = 0; j < W / 2; j++) {
                const __m512bh xv = (__m512bh)_mm512_loadu_si512(px + j * 32);
#pragma GCC unroll 16
                for (int o = 0; o < 16; o++) s[o] = _mm512_dpbf16_ps(s[o], xv, (__m512bh)_mm512_set1_epi32(gp[j * 16 + o]));
              }
            }
            for (int o = 0; o < 16; o++) _mm512_storeu_ps(a + o * 16, s[o]);
          }
#pragma omp critical
      for (int tap = 0; tap < 27; tap++)
        for (int o = 0; o < 16; o++)
          for (int i = 0; i < 16; i++) O[((bo * 16 + o) * Ci + bi * 16 + i) * 27 + tap] += acc[tap * 256 + o * 16 + i];
    }
  }
  return out.view({Co, Ci, 3, 3, 3});
}
#endif

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("depthwise_gw", &depthwise_gw);
  m.def("loss", &loss);
  m.def("loss_between", &loss_between);
  m.def("norm", &norm);
  m.def("norm_back", &norm_back);
  m.def("mlp", &mlp);
  m.def("mlp_back", &mlp_back);
#if defined(__AVX2__) && defined(__FMA__)
  m.def("conv3_gw_float", &conv3_gw_float);
#endif
#ifdef __AVX512BF16__
  m.def("conv3_gw", &conv3_gw);
#endif
}
