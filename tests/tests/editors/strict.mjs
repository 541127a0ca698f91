// Compiles every schema in a folder the way that strict programs do, and says which of them do not pass.
import fs from "node:fs";
import path from "node:path";
import Ajv from "ajv";
import Ajv2020 from "ajv/dist/2020.js";

const fail = (message) => {
  throw new Error(message);
};
const logger = { log: () => {}, warn: fail, error: fail };

const folder = process.argv[2];
const files = fs.readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(".json"));
for (const name of files) {
  const schema = JSON.parse(fs.readFileSync(path.join(folder, name), "utf8"));
  const Validator = schema.$schema.includes("2020-12") ? Ajv2020 : Ajv;
  for (const options of [{}, { strict: true, allErrors: true }]) {
    try {
      new (Validator.default ?? Validator)({ ...options, logger }).compile(schema);
    } catch (error) {
      console.log(`${name} ${JSON.stringify(options)}: ${error.message}`);
      process.exitCode = 1;
    }
  }
}
console.log(`${files.length} schemas`);
