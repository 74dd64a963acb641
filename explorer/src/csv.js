/** A CSV file as a table of cells; what is wrong with it is said in one sentence that names the line. */

/** Rows of cells; the separator is the one of , ; and tab that the first line has most of. Quotes may hold it. */
export function parse(text) {
  const first = text.replace(/^\uFEFF/, "").split(/\r?\n/, 1)[0];
  const count = (c) => first.split(c).length;
  const separator = [",", ";", "\t"].reduce((a, b) => (count(b) > count(a) ? b : a));
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  let line = 1;
  let start = 1;
  const endCell = () => {
    row.push(cell.trim());
    cell = "";
  };
  const endRow = () => {
    endCell();
    if (row.length > 1 || row[0] !== "") rows.push({ line: start, cells: row });
    row = [];
  };
  const body = text.replace(/^\uFEFF/, "");
  for (let i = 0; i < body.length; i++) {
    const c = body[i];
    if (c === "\n") line++;
    if (quoted) {
      if (c !== '"') cell += c;
      else if (body[i + 1] === '"') cell += body[++i];
      else quoted = false;
    } else if (c === '"' && cell.trim() === "") {
      quoted = true;
      cell = "";
    } else if (c === separator) endCell();
    else if (c === "\n") {
      endRow();
      start = line;
    } else if (c !== "\r") cell += c;
  }
  endRow();
  if (rows.length === 0) throw new Error("The file is empty; its first line must name the columns.");
  const [header, ...data] = rows;
  if (data.length === 0) throw new Error("The file has a line of names and no rows below it.");
  const names = header.cells.map((name) => name.toLowerCase());
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new Error(`The file has two columns called “${twice}”.`);
  for (const { line: at, cells } of data) {
    if (cells.length !== names.length)
      throw new Error(`Line ${at} has ${cells.length} cells, and the file has ${names.length} columns.`);
  }
  return { names, rows: data };
}

/** A column as numbers, read once. */
export function numbers(table, at) {
  table.columns ??= [];
  return (table.columns[at] ??= Float64Array.from(table.rows, ({ line, cells }) => {
    const x = cells[at] === "" ? NaN : Number(cells[at]);
    if (Number.isNaN(x)) throw new Error(`Line ${line}, column ${table.names[at]}: “${cells[at]}” is not a number.`);
    return x;
  }));
}
