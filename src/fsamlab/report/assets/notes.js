// The text below a chart: over which part of the axis the means of groups are drawn.

const MAX_NAMED = 3;

/* Sentences about groups; groups with the same words share one. More than MAX_NAMED groups are only counted. */
function merged(found, say, sayMany) {
  if (found.length > MAX_NAMED) return [sayMany(found.length)];
  return [...new Set(found.map(({ where }) => where))].map((where) => {
    const here = found.filter((cut) => cut.where === where);
    return `${here.map(({ label }) => label).join(", ")}: ${say(here[0], here.length > 1)}`;
  });
}

/* Which groups have means over only a part of the axis, and over which part. */
function cutNote(metrics, axis) {
  const name = placeOf(axis);
  const cuts = shownGroups().flatMap(({ label, ...group }) => {
    const cut = metrics.map((metric) => cutOf(group, metric, axis)).find((found) => found !== null);
    return cut ? [{ label, ...cut }] : [];
  });
  const span = ({ from, to }) => {
    const start = from === null ? "" : `from ${name} ${format(from)}`;
    return [start, to === null ? "" : `to ${start ? "" : `${name} `}${format(to)}`].filter((part) => part).join(" ");
  };
  const [ended, apart, alone] = ["cut", "apart", "alone"].map((kind) => cuts.filter((cut) => cut.kind === kind));
  const runs = (n, several) => (several ? "all of their runs" : `all ${n} runs`);
  return [
    ...merged(
      ended.map((cut) => ({ ...cut, where: span(cut) })),
      ({ where, n }, several) => `drawn ${where}, where ${runs(n, several)} have values.`,
      (count) => `${count} groups are drawn only where all of a group's runs have values.`,
    ),
    ...merged(
      apart.map((cut) => ({ ...cut, where: "" })),
      () => `not drawn, no ${name} is in all runs.`,
      (count) => `${count} groups are not drawn: no ${name} is in all of a group's runs.`,
    ),
    ...merged(
      alone.map((cut) => ({ ...cut, where: cut.places.map(format).join(", ") })),
      ({ where }) => `the mean of values at ${name} ${where}.`,
      (count) => `${count} groups are means of values at different ${name}s.`,
    ),
  ].join(" ");
}
