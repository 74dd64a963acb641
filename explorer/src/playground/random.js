/**
 * Random numbers from a seed, the same on every machine.
 *
 * mulberry32, a generator of 32 bits in the public domain, is enough for points to look at. Normal numbers are made by
 * the method of Box and Muller, one from two uniform ones.
 */

export function random(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const between = (low, high) => low + (high - low) * uniform();
  return { uniform, normal, between };
}

/** A count of mean `rate`, by the product of uniform numbers (Knuth); good for small rates. */
export function poisson(chance, rate) {
  const limit = Math.exp(-rate);
  let count = -1;
  for (let product = 1; product > limit; product *= chance.uniform()) count++;
  return count;
}
