"""The losses once more: one example at a time, in Python floats, straight from the formulas."""

import math

LOG_RCE = math.log(1e-4)


def softmax(z):
    exponentials = [math.exp(x - max(z)) for x in z]
    return [e / sum(exponentials) for e in exponentials]


def entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def divergence(p, m):
    return sum(a * math.log(a / b) for a, b in zip(p, m, strict=True) if a > 0)


def one_hot(size, y):
    return [float(k == y) for k in range(size)]


def ce(z, y):
    return -math.log(softmax(z)[y])


def mae(z, y):
    # Half the distance between prediction and label.
    p = softmax(z)
    return sum(abs(a - b) for a, b in zip(p, one_hot(len(p), y), strict=True)) / 2


def gce(z, y, q):
    return (1 - softmax(z)[y] ** q) / q if q else ce(z, y)


def tce(z, y, order):
    rest = 1 - softmax(z)[y]
    whole = math.floor(order)
    terms = [rest**i / i for i in range(1, whole + 2)]
    return sum(terms[:whole]) + (order - whole) * terms[whole]


def js(z, y, pi):
    return gjs([z], y, pi)


def gjs(views, y, pi):
    if pi == 0:
        return ce(views[0], y)
    if pi == 1:
        return sum(mae(z, y) for z in views) / len(views)
    predictions = [softmax(z) for z in views]
    label = one_hot(len(predictions[0]), y)
    share = (1 - pi) / len(views)
    m = [pi * a + share * sum(b) for a, *b in zip(label, *predictions, strict=True)]
    spread = pi * divergence(label, m) + share * sum(divergence(p, m) for p in predictions)
    return -spread / ((1 - pi) * math.log(1 - pi))


def rce(z, y, A=LOG_RCE):
    # Minus the sum of prediction times log label, with A for log 0.
    return -sum(p * (0 if k == y else A) for k, p in enumerate(softmax(z)))


def sce(z, y, alpha, beta, A=LOG_RCE):
    return alpha * ce(z, y) + beta * rce(z, y, A)


def nce(z, y):
    return ce(z, y) / sum(ce(z, k) for k in range(len(z)))


def nce_rce(z, y, alpha, beta):
    return alpha * nce(z, y) + beta * rce(z, y)


def agce(z, y, a, q):
    p = softmax(z)[y]
    return ((a + 1) ** q - (a + p) ** q) / q if q else math.log((a + 1) / (a + p))


def nce_agce(z, y, alpha, beta, a, q):
    return alpha * nce(z, y) + beta * agce(z, y, a, q)


def ce_sr(z, y, tau, lamb, p, rho, r, epochs, progress):
    norm = math.sqrt(sum(x * x for x in z))
    u = [x / norm / tau for x in z]
    epoch = round(progress * epochs)
    return ce(u, y) + lamb * rho ** (epoch // r) * sum(s**p for s in softmax(u))


def btl(z, y, t1, t2, num_iters=5):
    def log_t(x, t):
        return math.log(x) if t == 1 else (x ** (1 - t) - 1) / (1 - t)

    def exp_t(x, t):
        return math.exp(x) if t == 1 else max(0.0, 1 + (1 - t) * x) ** (1 / (1 - t))

    below = [x - max(z) for x in z]
    if t2 == 1:
        p = softmax(z)
    else:
        moved = below
        for _ in range(num_iters):
            total = sum(exp_t(x, t2) for x in moved)
            moved = [x * total ** (1 - t2) for x in below]
        level = -log_t(1 / sum(exp_t(x, t2) for x in moved), t2)
        p = [exp_t(x - level, t2) for x in below]
    return sum(
        label * (log_t(label, t1) if label else 0)
        - label * log_t(x, t1)
        - (label ** (2 - t1) - x ** (2 - t1)) / (2 - t1)
        for label, x in zip(one_hot(len(z), y), p, strict=True)
    )


def nlnl(z, complement, weights):
    p = softmax(z)
    return -sum(weights[c] * math.log(1 - p[c]) for c in complement)


def poly1(z, y, epsilon):
    return ce(z, y) + epsilon * (1 - softmax(z)[y])


def dal(z, y, q_start, q_end, lambda_end, progress):
    q = q_start + (q_end - q_start) * progress
    lamb = 0.0
    if q_end > 1 and q > 1:
        # From where q passes 1 (or from the start) to the end.
        first = max(q_start, 1.0)
        lamb = lambda_end * (q - first) / (q_end - first)
    bootstrapping = lamb * entropy(softmax(z)) / (q * math.log(len(z))) if lamb else 0.0
    return gce(z, y, q) + bootstrapping


def focal(z, y, gamma):
    p = softmax(z)[y]
    return -((1 - p) ** gamma) * math.log(p)


def nfl(z, y, gamma):
    return focal(z, y, gamma) / sum(focal(z, k, gamma) for k in range(len(z)))


def anl_fl(z, y, alpha, beta, gamma, min_prob=1e-7, lamb=0.0):
    def below(p):
        return greatest + (1 - max(p, min_prob)) ** gamma * math.log(max(p, min_prob))

    greatest = -((1 - min_prob) ** gamma) * math.log(min_prob)
    p = softmax(z)
    negative = 1 - below(p[y]) / sum(below(x) for x in p)
    return alpha * nfl(z, y, gamma) + beta * negative


def anl_ce(z, y, alpha, beta, min_prob=1e-7, lamb=0.0):
    return anl_fl(z, y, alpha, beta, 0, min_prob)


def class_imbalance(rows):
    predictions = [softmax(z) for z in rows]
    means = [sum(column) / len(rows) for column in zip(*predictions, strict=True)]
    return math.log(len(means)) - entropy(means)


def amse(z, y, a):
    p = softmax(z)
    return sum((x - a * label) ** 2 for x, label in zip(p, one_hot(len(p), y), strict=True)) / len(
        p
    )


def jal_ce(z, y, alpha, beta, a):
    return alpha * nce(z, y) + beta * amse(z, y, a)


def jal_fl(z, y, alpha, beta, a, gamma):
    return alpha * nfl(z, y, gamma) + beta * amse(z, y, a)


def eps_softmax(z, y, alpha, beta, m):
    p = softmax(z)
    q = [(x + m * (x == max(p))) / (m + 1) for x in p]
    # The whole distance between prediction and label.
    return -alpha * math.log(q[y]) + beta * 2 * mae(z, y)


def truncated_gce(z, y, q, k, start, progress):
    p = softmax(z)[y]
    return gce(z, y, q) if progress < start or p > k else (1 - k**q) / q


def ldr_kl(z, y, lamb, margin, normalize=True):
    s = z
    if normalize:
        positive = [math.log1p(math.exp(x)) for x in z]
        s = [len(z) * x / sum(positive) for x in positive]
    terms = [math.exp((x - s[y] + margin * (k != y)) / lamb) for k, x in enumerate(s)]
    return lamb * math.log(sum(terms) / len(terms))


def clipped(z, y, q, threshold):
    """The loss as the integral of its clipped slope, from the label's probability to 1."""
    p = softmax(z)[y]
    tangent = max(threshold - p, 0.0) * threshold ** (q - 1)
    kept = max(p, threshold)
    return tangent + (-math.log(kept) if q == 0 else (1 - kept**q) / q)


def logit_clip(z, y, delta, base):
    norm = math.sqrt(sum(x * x for x in z))
    return gce([x * min(1.0, delta / norm) for x in z], y, base["q"])


def forward(z, y, matrix):
    return -math.log(sum(x * row[y] for x, row in zip(softmax(z), matrix, strict=True)))


def backward(z, y, matrix):
    """Row y of the inverse is what the transposed matrix makes unit vector y of."""
    size = len(matrix)
    rows = [[matrix[k][j] for k in range(size)] + [float(j == y)] for j in range(size)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda r: abs(rows[r][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [x / rows[column][column] for x in rows[column]]
        for r in range(size):
            if r != column:
                factor = rows[r][column]
                rows[r] = [x - factor * p for x, p in zip(rows[r], rows[column], strict=True)]
    return sum(row[-1] * ce(z, k) for k, row in enumerate(rows))


def peer(rows, labels, pairs, alpha, q):
    def each(z, y):
        return gce(z, y, q)

    return [
        each(z, y) - alpha * each(rows[i], labels[j])
        for z, y, i, j in zip(rows, labels, *pairs, strict=True)
    ]
