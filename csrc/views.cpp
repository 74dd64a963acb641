// Losses of two views of the same samples, matrices (N, D) of features, by products of their columns: how far the
// correlations are from those of features of which each is in both views and in no other; and how far the features of
// either view are from varying alone. Both with their gradients.
//
// 1. What takes time is in views.h: moments, products and the way back. Here is what lies between: (D, D) numbers in
//    double.
// 2. The correlation of a feature with itself misses 1 by half the squared distance of its standardised columns, a sum
//    in which nothing cancels.
// 3. Of the gradient by standardised features the part along themselves is taken away. It is the sum of products of
//    derivatives and correlations, so that no pass over the features is needed for it.
#include "views.h"

#include <torch/csrc/stable/library.h>

namespace losskit {
namespace {

template <class T>
void correlate(const StableTensor& a, const StableTensor& b, double weight, double eps, StableTensor& loss,
               StableTensor& by_a, StableTensor& by_b) {
  Views<T> views(a, b);
  find_moments(views);
  const int64_t d = views.columns;
  const double more = static_cast<double>(views.rows) * eps;
  for (size_t i = 0; i < views.factors.size(); ++i) views.factors[i] = 1 / std::sqrt(views.squares[i] + more);
  Columns<T> columns(views, 0, 1);
  std::vector<T> matrices[2], along[2];
  for (int k = 0; k < 2; ++k) matrices[k].resize(views.batch * d * d), along[k].resize(views.batch * d);
  std::vector<double> of_row(d), of_column(d), missing(d);
  for (int64_t n = 0; n < views.batch; ++n) {
    const double *products = columns.of(n), *apart = columns.apart_of(n);
    const double *of_a = views.factors.data() + views.at(0, n), *of_b = views.factors.data() + views.at(1, n);
    std::fill(of_column.begin(), of_column.end(), 0.0);
    double on = 0, off = 0;
    for (int64_t i = 0; i < d; ++i) {
      missing[i] = 0.5 * (apart[i] + more * (of_a[i] * of_a[i] + of_b[i] * of_b[i]));
      double sum = 0;
      for (int64_t j = 0; j < d; ++j) {
        const double square = i == j ? 0.0 : products[i * d + j] * products[i * d + j];
        sum += square, of_column[j] += square;
        const double slope = i == j ? -2 * missing[i] : 2 * weight * products[i * d + j];
        matrices[0][(n * d + j) * d + i] = static_cast<T>(slope * of_a[i]);
        matrices[1][(n * d + i) * d + j] = static_cast<T>(slope * of_b[j]);
      }
      of_row[i] = sum, off += sum, on += missing[i] * missing[i];
    }
    static_cast<T*>(loss.data_ptr())[n] = static_cast<T>(on + weight * off);
    for (int64_t i = 0; i < d; ++i) {
      const double own = 2 * missing[i] * (1 - missing[i]);
      along[0][n * d + i] = static_cast<T>((own - 2 * weight * of_row[i]) * of_a[i]);
      along[1][n * d + i] = static_cast<T>((own - 2 * weight * of_column[i]) * of_b[i]);
    }
  }
  Back<T>{views, 0, 1, matrices[0].data(), along[0].data(), T(0), static_cast<T*>(by_a.data_ptr())}.run();
  Back<T>{views, 1, 0, matrices[1].data(), along[1].data(), T(0), static_cast<T*>(by_b.data_ptr())}.run();
}

// Weights of a loss of two views that may differ.
struct Terms {
  double invariance, variance, covariance, eps;
};

template <class T>
void covary(const StableTensor& a, const StableTensor& b, const Terms& weights, StableTensor& loss, StableTensor& by_a,
            StableTensor& by_b) {
  Views<T> views(a, b);
  find_moments(views);
  const int64_t d = views.columns;
  const double free = static_cast<double>(views.rows - 1), each = static_cast<double>(d);
  const double invariance = weights.invariance / (static_cast<double>(views.rows) * each);
  std::vector<double> losses(views.batch);
  std::vector<T> matrix(views.batch * d * d), along(views.batch * d);
  for (int k = 0; k < 2; ++k) {
    Columns<T> columns(views, k, k);
    for (int64_t n = 0; n < views.batch; ++n) {
      const double *products = columns.of(n), *squares = views.squares.data() + views.at(k, n);
      double hinges = 0, off = 0, distance = 0;
      for (int64_t i = 0; i < d; ++i) {
        const double deviation = std::sqrt(squares[i] / free + weights.eps);
        const bool near = deviation < 1;
        hinges += near || deviation != deviation ? 1 - deviation : 0;
        distance += columns.apart_of(n)[i];
        along[n * d + i] = static_cast<T>(near ? -0.5 * weights.variance / (free * each * deviation) : 0.0);
        for (int64_t j = 0; j < d; ++j) {
          const double covariance = i == j ? 0 : products[i * d + j] / free;
          off += covariance * covariance;
          matrix[(n * d + i) * d + j] = static_cast<T>(4 * weights.covariance / (free * each) * covariance);
        }
      }
      losses[n] += 0.5 * weights.variance * hinges / each + weights.covariance * off / each;
      if (k == 0) losses[n] += invariance * distance;
    }
    StableTensor& gradient = k ? by_b : by_a;
    Back<T>{
        views, k, k, matrix.data(), along.data(), static_cast<T>(2 * invariance), static_cast<T*>(gradient.data_ptr())}
        .run();
  }
  for (int64_t n = 0; n < views.batch; ++n) static_cast<T*>(loss.data_ptr())[n] = static_cast<T>(losses[n]);
}

}  // namespace

// Matrices (B, N, D), contiguous, float or double; the weight of correlations of different features. The losses (B,)
// and the gradients are filled in.
void correlations(StableTensor a, StableTensor b, double weight, double eps, StableTensor loss, StableTensor by_a,
                  StableTensor by_b) {
  a.element_size() == sizeof(double) ? correlate<double>(a, b, weight, eps, loss, by_a, by_b)
                                     : correlate<float>(a, b, weight, eps, loss, by_a, by_b);
}

// The same, with the weights of the distance of the views, of the hinge at a deviation of 1, and of covariances.
void covariances(StableTensor a, StableTensor b, double invariance, double variance, double covariance, double eps,
                 StableTensor loss, StableTensor by_a, StableTensor by_b) {
  const Terms weights{invariance, variance, covariance, eps};
  a.element_size() == sizeof(double) ? covary<double>(a, b, weights, loss, by_a, by_b)
                                     : covary<float>(a, b, weights, loss, by_a, by_b);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def(
      "correlations(Tensor a, Tensor b, float weight, float eps, Tensor(a!) loss, Tensor(b!) by_a, Tensor(c!) by_b) -> "
      "()");
  library.def(
      "covariances(Tensor a, Tensor b, float invariance, float variance, float covariance, float eps, Tensor(a!) loss, "
      "Tensor(b!) by_a, Tensor(c!) by_b) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {
  library.impl("correlations", TORCH_BOX(&losskit::correlations));
  library.impl("covariances", TORCH_BOX(&losskit::covariances));
}
